"""What a guard does over time, kept by a tracking library (extra `tracking`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

from taster.core.guarded_training import GuardedTraining
from taster.core.step_record import StepRecord
from taster.core.view import View
from taster.errors import SettingError
from taster.integrations.tracking.tracker import Tracker, finite_numbers


class GuardLog:
    """Keeps the records of a learner's steps: verdicts, counters and, now and then, the model's quality.

        with GuardLog(TensorBoardTracker("logs"), learner, quality=accuracy, every=50) as log:
            for x, y in stream:
                log(learner.step(x, y))

    With `Guarded`, hand over `step.record` after each block. As of each step it keeps

    - `guard/committed`, `guard/rejected`, `guard/rewound`: 1 for what became of it, else 0; `guard/rewound_steps`;
    - `evidence/NAME`: the numbers that the verdict is based on;
    - `step/loss`, `step/gradient_norm_before`, `step/gradient_norm_after`, `step/seconds`;
    - `counters/NAME`: of the learner, so far;
    - `quality/NAME`, every so many steps: what `quality` returns.

    Args:
        tracker: the run to keep them in; closed with the log.
        learner: a `Learner`, a `Guarded` or whatever is built on them.
        quality: of the model, as a number or several by name: called with a view of the model, which cannot change it.
        every: how many steps lie between two measurements of the quality, at least 1.

    Raises:
        SettingError: for an `every` below 1.
    """

    def __init__(
        self,
        tracker: Tracker,
        learner: GuardedTraining,
        *,
        quality: Callable[[View], float | Mapping[str, float]] | None = None,
        every: int = 50,
    ) -> None:
        if every < 1:
            raise SettingError(f"GuardLog: every: got {every}, wanted at least 1")
        self._tracker = tracker
        self._learner = learner
        self._quality = quality
        self._every = every

    def __call__(self, record: StepRecord) -> None:
        """Keeps the record of the step that the learner has just made."""
        verdict = record.verdict
        numbers = {
            "guard/committed": float(verdict.committed),
            "guard/rejected": float(verdict.action.name == "REJECT"),
            "guard/rewound": float(verdict.action.name == "REWIND"),
            "guard/rewound_steps": float(verdict.steps),
            **finite_numbers(verdict.evidence, "evidence/"),
            **finite_numbers(
                {
                    "loss": record.loss,
                    "gradient_norm_before": record.gradient_norm_before,
                    "gradient_norm_after": record.gradient_norm_after,
                    "seconds": record.seconds.get("total"),
                },
                "step/",
            ),
            **finite_numbers(self._learner.counters, "counters/"),
        }
        if self._quality is not None and record.step % self._every == 0:
            found = self._quality(self._learner.view())
            named = found if isinstance(found, Mapping) else {"probe": found}
            numbers |= finite_numbers({name: float(value) for name, value in named.items()}, "quality/")
        self._tracker.log_numbers(numbers, record.step)

    def close(self) -> None:
        """Ends the tracker's run."""
        self._tracker.close()

    def __enter__(self) -> GuardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
