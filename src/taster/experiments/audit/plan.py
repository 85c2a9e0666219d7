"""How large a suite fits the time that is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taster.experiments.audit.suite import Size
from taster.experiments.results import AnyRow

_STREAM_SIZES = ((3, 30, 5), (3, 20, 5), (3, 12, 5), (3, 12, 2), (3, 6, 2), (2, 6, 2), (1, 6, 2), (1, 4, 1))
"""Seeds, steps and PGD steps, the largest first: seeds go last, as nothing can be said without them."""
_EPOCHS = (30, 20, 10, 5, 3, 2)
_CRAFTS_A_BATCH, _TRIED_STEPS = 3.0, 5.0
"""Crafting a batch of accumulative poison, over a trigger's; steps that an attacker who knows the guard tries."""


@dataclass(frozen=True)
class Speed:
    """Seconds, as measured in the first pass.

    Attributes:
        guarded_step: a step behind the guard, its measurement included.
        pgd_step: one step of crafting a batch.
    """

    guarded_step: float
    pgd_step: float

    @classmethod
    def of_stream(cls, rows: Sequence[AnyRow], labels: Mapping[str, str], pgd_steps: int) -> Speed:
        """From the rows of a first pass.

        Args:
            rows: with `seconds`.
            labels: of the attacks by the name of their function.
            pgd_steps: with which the trigger was crafted.
        """
        by = {(row["attack"], row["defence"]): row for row in rows}
        guarded, plain = by[(labels["none"], "guard")], by[(labels["none"], "none")]
        struck = by[(labels["vanilla_trigger"], "none")]
        crafting = float(struck["seconds"]) - float(plain["seconds"])  # type: ignore[typeddict-item]
        step = float(guarded["seconds"]) / (int(guarded["steps"]) + 1)  # type: ignore[typeddict-item]
        return cls(step, max(crafting / pgd_steps, step / 2))

    def suite_seconds(self, size: Size, defences: int, jobs: int) -> float:
        """Of the whole suite of streams: seven attacks behind each defence."""
        steps, crafted = size.steps + 1, size.pgd_steps * self.pgd_step
        simple = 5 * steps * self.guarded_step + crafted
        prepared = steps * (self.guarded_step + _CRAFTS_A_BATCH * crafted)
        aware = steps * ((1 + _TRIED_STEPS) * self.guarded_step + crafted)
        return size.seeds * defences * (simple + prepared + aware) / jobs


def stream_size(speed: Speed, seconds: float, defences: int, jobs: int, epochs: int, seeds: int | None) -> Size:
    """The largest suite of streams that fits; the smallest if none does.

    Args:
        speed: as measured.
        seconds: that it may take.
        defences: in the suite.
        jobs: processes side by side.
        epochs: of the burn-in.
        seeds: asked for; None: at most three.
    """
    sizes = [Size(seeds or most, steps, pgd_steps, epochs) for most, steps, pgd_steps in _STREAM_SIZES]
    return next((size for size in sizes if speed.suite_seconds(size, defences, jobs) <= seconds), sizes[-1])


def training_size(epoch_seconds: float, seconds: float, cells: int, jobs: int, seeds: int | None) -> Size:
    """The largest suite of trainings that fits; the smallest if none does.

    Args:
        epoch_seconds: of one cell.
        seconds: that all may take.
        cells: of one seed.
        jobs: processes side by side.
        seeds: asked for; None: at most three.
    """
    sizes = [Size(n, epochs, 1, 0) for n in ([seeds] if seeds else [3, 2, 1]) for epochs in _EPOCHS]
    return next(
        (size for size in sizes if size.seeds * size.steps * cells * epoch_seconds / jobs <= seconds), sizes[-1]
    )


def burn_in_epochs(epoch_seconds: float, seconds: float, most: int = 30) -> int:
    """Epochs that fit, at least one."""
    return max(1, min(most, int(seconds / max(epoch_seconds, 1e-9))))
