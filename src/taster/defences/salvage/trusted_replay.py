"""In the place of a batch that a gate rejected, and of which no part passes, trusted samples are learned."""

from __future__ import annotations

from typing import Any

import torch

from taster.core.batch import Batch
from taster.core.guard import Guard, ScreenedBatch
from taster.core.threat import countermeasure
from taster.core.trusted_data import as_trusted_data, check_trusted_losses, check_trusted_range
from taster.core.view import View
from taster.utils.setting_types import Count
from taster.utils.settings import validate_settings

_NAME = "trusted_replay"

_CHUNK = 1000
"""Samples that go through the model at a time when they are checked."""


@countermeasure(
    "recovery",
    "indiscriminate availability",
    note="It answers the attack on the guard itself: to make it refuse everything.",
)
@validate_settings
def trusted_replay(training_samples: Any, *, seed: Count = 0) -> Guard:
    """When a gate has rejected a batch, learns as many trusted samples in its place, if the gate accepts them.

    Who makes every batch harmful otherwise keeps the model from learning anything. It costs nothing until a batch is
    rejected, and then a step and a check. Add it last, `taster.guard(probe) + trusted_replay(training_samples)`, and
    parts of the batch itself are tried first. `record.dropped` then counts the whole batch. It makes up for the steps
    that the stream loses, and not for what the stream had to teach: nothing new is learned of the world.

    Args:
        training_samples: trusted, of the form of the stream's batches; those that the model was trained with, say.
            Never the gate's probe, which would be learned by heart and could judge nothing any more. A `Batch`, a data
            set or a data loader.
        seed: of the draws, which depend on it and on the step alone.

    Raises:
        BatchError: for samples with NaN or infinity.

    Source: taster's own; the rehearsal of earlier samples is that of Ratcliff 1990 and Robins 1995.
    """
    return Guard(salvage=[TrustedReplay(as_trusted_data(training_samples, _NAME), seed)])


class TrustedReplay:
    """A salvaging screen that puts trusted samples in the place of a batch, drawn without replacement where there are
    enough of them.

    `Guard.set_trusted_data` leaves these samples as they are: it brings probes, which must not be trained on.

    Args:
        samples: that are learned.
        seed: of the draws.
    """

    name = _NAME

    def __init__(self, samples: Batch, seed: int = 0) -> None:
        self.samples = samples
        self._seed = seed

    def check_model(self, view: View) -> None:
        """Checks that the model and the loss take the samples, all of them, in one pass."""
        check_trusted_range(self.samples, view, self.name)
        for start in range(0, len(self.samples), _CHUNK):
            check_trusted_losses(self.samples.select(slice(start, start + _CHUNK)), view, self.name)

    def __call__(self, admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        """Other samples, as many as are left of the batch; clients' updates are left alone."""
        if not isinstance(admitted.batch, Batch):
            return admitted
        return admitted.substitute(self.samples.select(self._draw(len(admitted.batch), view)))

    def _draw(self, count: int, view: View) -> torch.Tensor:
        """Indices; processes that train together draw different ones, so that they learn more samples."""
        place = (self._seed * 2**20 + view.step) * view.ranks.size + view.ranks.rank
        generator = torch.Generator().manual_seed(place % 2**63)
        rounds = -(-count // len(self.samples))
        drawn = [torch.randperm(len(self.samples), generator=generator) for _ in range(rounds)]
        return torch.cat(drawn)[:count]
