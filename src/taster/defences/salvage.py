"""What is honest in a batch that was refused: its less suspicious half, or half of that."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from taster.influence import Influence
from taster.settings import checked
from taster.stages import Admitted, Guard
from taster.types import Batch
from taster.view import View


@checked
def salvage(
    probe: Batch, *, least: Annotated[int, Field(ge=1)] = 16, samples: Annotated[int, Field(ge=1)] = 256
) -> Guard:
    """Where a gate has rejected a batch, its half that would harm trusted samples least is tried, then half of that.

    It costs nothing until a batch is rejected: a gradient on trusted samples and a step for each part tried.

    Args:
        probe: trusted samples, whose loss decides which half it is.
        least: no part smaller than this is tried.
        samples: of the probe, as many are asked.

    Source: taster's own, by the influence of Koh and Liang 2017 to first order (`taster.influence.Influence`).
    """
    return Guard(salvage=[BetterHalf(probe, least, samples)])


class BetterHalf:
    """Drops the half of a batch with the greater influence on trusted samples' loss.

    Args:
        probe: trusted samples.
        least: it drops nothing where fewer would be left.
        samples: of the probe, as many are asked.
    """

    name = "salvage"

    def __init__(self, probe: Batch, least: int, samples: int) -> None:
        self._least = least
        self._samples = samples
        self.renew(probe)

    def renew(self, probe: Batch) -> None:
        """Takes up other trusted samples."""
        self._influence = Influence(probe.select(slice(self._samples)))

    def __call__(self, admitted: Admitted[Batch], view: View) -> Admitted[Batch]:
        """The other half."""
        count = len(admitted.batch)
        if count // 2 < self._least:
            return admitted
        # What is not a number is suspicious.
        scores = torch.nan_to_num(self._influence(admitted.batch, view), nan=float("inf"))
        return admitted.drop(scores.argsort(stable=True).argsort() >= count // 2, "")
