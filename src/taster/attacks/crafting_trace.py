"""The iterations of a crafting, for pictures, curves and timings. No decision of a learner depends on them."""

from __future__ import annotations

import math
import time

from taster.core.batch import Batch


class CraftingTrace:
    """The iterations of the last crafting; reset when the next one starts.

    Attributes:
        batches: poisoned batch of each iteration, including the initial one.
        losses: mean loss of the attacker's normal samples after one update on each of them.
        seconds: wall-clock time from the start to the last iteration.
        cpu_seconds: CPU time of this process over the same span.
        setup_seconds: time of what is done once for all craftings, such as training a generator.
    """

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.losses: list[float] = []
        self.seconds: float = 0.0
        self.cpu_seconds: float = 0.0
        self.setup_seconds: float = 0.0
        self._started = (0.0, 0.0)

    def start(self) -> None:
        """Discards the last crafting and starts the clocks."""
        self.batches, self.losses = [], []
        self.seconds = self.cpu_seconds = 0.0
        self._started = (time.perf_counter(), time.process_time())

    def append(self, batch: Batch, loss: float) -> None:
        """Records an iteration."""
        self.batches.append(Batch(batch.x.detach(), batch.y))
        self.losses.append(loss)
        self.seconds = time.perf_counter() - self._started[0]
        self.cpu_seconds = time.process_time() - self._started[1]

    @property
    def most_harmful(self) -> Batch:
        """The batch of the iteration with the largest loss; NaN ranks lowest, and ties go to the earliest."""
        ranked = [(-math.inf if math.isnan(loss) else loss, -i) for i, loss in enumerate(self.losses)]
        return self.batches[-max(ranked)[1]]
