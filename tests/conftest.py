"""What every test starts with."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _the_same_draws_in_any_order() -> None:
    """Draw the same numbers whichever tests run before."""
    torch.manual_seed(0)
