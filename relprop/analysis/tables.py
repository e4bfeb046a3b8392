"""Numbers as cells of a table, and as JSON can hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

import numpy as np


def number(value: float, digits: int = 3) -> str:
    """Write a number for a table; a dash where there is none."""
    return f"{value:.{digits}f}" if isfinite(value) else "-"


def p_value(value: float) -> str:
    """Write a p-value for a table."""
    if not isfinite(value):
        return "-"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def plain(value: Any) -> Any:
    """Turn dataclasses and NumPy's values into what JSON can say; NaN becomes None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not isfinite(value) else value
