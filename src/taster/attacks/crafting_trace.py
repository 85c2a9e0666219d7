"""How poison formed, step by step: for pictures, curves and timings, never for a decision of the learner's."""

from __future__ import annotations

import math
import time

from taster.core.types import Batch


class CraftingTrace:
    """What one crafting went through; begun anew at the next.

    Attributes:
        batches: the poisoned batch at each iteration, the start first.
        losses: the mean loss of the attacker's normal samples after one update on each of them.
        seconds: from the start to the last iteration, on the clock.
        processor: the same, of this process on the processor, which does not depend on what else the machine does.
        prepared: seconds of what is done once and serves every crafting, such as training a generator.
    """

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.losses: list[float] = []
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.setup_seconds = 0.0
        self._began = (0.0, 0.0)

    def start(self) -> None:
        """Forgets the last crafting and starts the clock."""
        self.batches, self.losses = [], []
        self.seconds = self.cpu_seconds = 0.0
        self._began = (time.perf_counter(), time.process_time())

    def append(self, batch: Batch, loss: float) -> None:
        """Notes an iteration."""
        self.batches.append(Batch(batch.x.detach(), batch.y))
        self.losses.append(loss)
        self.seconds = time.perf_counter() - self._began[0]
        self.cpu_seconds = time.process_time() - self._began[1]

    @property
    def most_harmful(self) -> Batch:
        """The iteration after which the loss was the greatest; one that is no number is the least."""
        ranked = [(-math.inf if math.isnan(loss) else loss, -i) for i, loss in enumerate(self.losses)]
        return self.batches[-max(ranked)[1]]
