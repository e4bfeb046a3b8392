"""Files of evaluations with known numbers, made through the store's own writer; no model and no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from relprop.store import EvaluationWriter, Layout, Method, Metric

CONFIG: dict[str, Any] = {"model": {"name": "tiny"}, "protocol": "gae", "seed": 0}
CLASSES = ("cup", "spoon", "plate", "table", "chair")
AUC = Metric("deletion_auc", "area under the curve of deletion", (0.0, 1.0), "lower is better")


def score_columns(faithfulness: Any, robustness: Any, raw: Any) -> dict[str, Any]:
    """All scores that follow from three, as DESIGN 6 has them."""
    f, r, c = (np.asarray(values, np.float64) for values in (faithfulness, robustness, raw))
    consistency, contrast = np.maximum(f + r, 0) / 2, np.maximum(c, 0)
    return {
        "faithfulness": f,
        "robustness": r,
        "unclipped": f + r,
        "local_consistency": consistency,
        "contrastiveness_raw": c,
        "contrastiveness": contrast,
        "gae": consistency * contrast,
    }


def random_columns(n: int, level: float, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    around = (np.clip(level + 0.15 * rng.standard_normal(n), -1, 1) for _ in range(3))
    return score_columns(*around)


def write_evaluation(
    path: Path,
    methods: Mapping[str, Mapping[str, Any]],
    n: int,
    *,
    names: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    size: tuple[int, int] = (6, 8),
    maps: Mapping[str, Any] | None = None,
    failed: Mapping[str, Mapping[int, str]] | None = None,
    metrics: tuple[Metric, ...] = (),
    finish: bool = True,
) -> Path:
    """Write a file of n samples with indices 0, 10, 20, ...: scores, flags and states as given.

    Parameters
    ----------
    methods
        Columns of each method; those called random, constant and centre are controls.
    failed
        Of methods, or of ``""`` for the masking run: rows and their messages.
    maps
        Relevance of methods, ``(n, H, W)`` or ``(n, C, H, W)``.
    """
    maps, failed = maps or {}, failed or {}
    height, width = size
    layout = Layout(size=size, classes=len(CLASSES), class_names=CLASSES, precision="float64")
    described = [
        Method(
            name,
            {"control": name} if name in ("random", "constant", "centre") else {"rules": name},
            f"method {name}",
            metrics if any(metric.name in columns for metric in metrics) else (),
            None if name not in maps else "summed" if np.ndim(maps[name]) == 3 else "channels",
        )
        for name, columns in methods.items()
    ]
    rng = np.random.default_rng(9)
    steps = np.stack([rng.permutation(height * width).reshape(size) for _ in range(2 * n)])
    steps = np.minimum(steps * 10 // (height * width) + 1, 10).astype(np.uint8).reshape(n, 2, height, width)
    falling = np.linspace(0.9, 0.1, 10)
    probability = np.stack([falling**2, np.sqrt(falling)])[None] * np.linspace(0.5, 1, n)[:, None, None]
    output = rng.standard_normal((n, len(CLASSES)))
    config = CONFIG | {"samples": n, "shard": [0, 1]}
    with EvaluationWriter.create(path, config, layout, np.arange(n) * 10, methods=described) as writer:
        states = _states(n, failed.get("", {}))
        writer.write_samples(
            slice(0, n),
            states
            | {
                "name": list(names or [f"picture-{k}.png" for k in range(n)]),
                "label": list(labels if labels is not None else [k % len(CLASSES) for k in range(n)]),
                "prediction": output.argmax(1),
                "target": output.argmax(1),
                "mosaic_members": np.arange(4 * n).reshape(n, 4) // 4 * 10,
                "quadrant": np.arange(n) % 4,
                "quadrant_scores": rng.uniform(-1, 1, (n, 4)),
                "logit": np.log(probability),
                "probability": probability,
                "output": output,
                "steps": steps,
                "impact": np.sign(rng.standard_normal((n, *size))).astype(np.int8),
            },
        )
        for k, (name, columns) in enumerate(methods.items()):
            change = np.linspace(0.1, 0.6, 9) * np.array([[1.0], [0.4 + 0.05 * k]])
            rows = _states(n, failed.get(name, {})) | {
                "map_change": np.broadcast_to(change, (n, 2, 9)),
                "seconds": np.full(n, 0.5),
            }
            rows |= {"relevance": maps[name]} if name in maps else {}
            writer.write_method(name, slice(0, n), rows | dict(columns))
        writer.finish() if finish else writer.commit()
    return path


def write_pictures(folder: Path, names: Sequence[str], size: tuple[int, int]) -> list[str]:
    """Write a plain picture for each name, its red a ramp from left to right; return their paths."""
    folder.mkdir(exist_ok=True)
    picture = np.zeros((*size, 3), np.uint8)
    picture[..., 2] = np.linspace(0, 255, size[1]).astype(np.uint8)
    picture[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 255
    for name in names:
        assert cv2.imwrite(str(folder / name), picture)
    return [str(folder / name) for name in names]


def _states(n: int, failed: Mapping[int, str]) -> dict[str, Any]:
    return {
        "state": [2 if k in failed else 1 for k in range(n)],
        "message": [failed.get(k, "") for k in range(n)],
    }
