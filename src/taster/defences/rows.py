"""What gates keep of trusted samples: a row for each of them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from taster.core.types import Batch
from taster.errors import CheckpointError


def check_rows(kept: Iterable[Tensor], probe: Batch) -> None:
    """Refuses a saved state that is of another probe.

    Raises:
        CheckpointError: for rows that are not as many as the probe has samples.
    """
    for rows in kept:
        if len(rows) != len(probe):
            raise CheckpointError(
                f"got the state of a gate with a probe of {len(rows)} samples, wanted {len(probe)}: build the guard "
                "with the probe that it had"
            )
