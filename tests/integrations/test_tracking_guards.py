"""A guard's records in a tracking library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import tiny_batch, tiny_learner

from taster import Guard, Guarded, Verdict
from taster.core.guard import CandidateUpdate
from taster.core.verdict import COMMIT, reject
from taster.errors import SettingError
from taster.integrations.tracking import GuardLog, TensorBoardTracker


class Kept:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.numbers: list[tuple[int, Mapping[str, float]]] = []
        self.closed = False

    def log_settings(self, settings: Mapping[str, Any], /) -> None:
        raise AssertionError("a guard has no settings")

    def log_numbers(self, numbers: Mapping[str, float], step: int, /) -> None:
        self.numbers.append((step, numbers))

    def close(self) -> None:
        self.closed = True


def every_second(change: CandidateUpdate) -> Verdict:
    every_second.calls += 1  # type: ignore[attr-defined]
    if every_second.calls % 2 == 0:  # type: ignore[attr-defined]
        return reject("every second", evidence={"drop": 2.5, "nothing": float("nan")})
    return COMMIT


def test_verdicts_counters_and_quality_are_kept() -> None:
    every_second.calls = 0  # type: ignore[attr-defined]
    learner, kept = tiny_learner(guard=Guard(gates=[every_second])), Kept()
    batch = tiny_batch()
    with GuardLog(kept, learner, quality=lambda view: view.accuracy(batch.x, batch.y), every=2) as log:
        for _ in range(4):
            log(learner.step(batch))
    assert kept.closed
    assert [step for step, _ in kept.numbers] == [0, 1, 2, 3]
    assert [numbers["guard/committed"] for _, numbers in kept.numbers] == [1, 0, 1, 0]
    assert [numbers["guard/rejected"] for _, numbers in kept.numbers] == [0, 1, 0, 1]
    assert [numbers["counters/rejected"] for _, numbers in kept.numbers] == [0, 1, 1, 2]
    assert kept.numbers[1][1]["evidence/drop"] == 2.5
    assert "evidence/nothing" not in kept.numbers[1][1]
    assert ["quality/probe" in numbers for _, numbers in kept.numbers] == [True, False, True, False]
    assert all(numbers["step/seconds"] > 0 for _, numbers in kept.numbers)


def test_a_loop_of_ones_own_is_kept_in_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason='needs the extra: pip install "taster[tracking]"')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    guarded = Guarded(model, optimizer, Guard())
    with GuardLog(TensorBoardTracker(tmp_path / "log"), guarded, quality=lambda view: {"norm": 3.0}, every=1) as log:
        for _ in range(3):
            with guarded.step() as step:
                optimizer.zero_grad()
                model(torch.ones(4, 3)).square().mean().backward()
                optimizer.step()
            assert step.record is not None
            log(step.record)
    read = EventAccumulator(str(tmp_path / "log"))
    read.Reload()
    assert [scalar.value for scalar in read.Scalars("counters/committed")] == [1, 2, 3]
    assert [scalar.value for scalar in read.Scalars("quality/norm")] == [3, 3, 3]


def test_intervals_below_one_are_refused() -> None:
    with pytest.raises(SettingError, match="every: got 0, wanted at least 1"):
        GuardLog(Kept(), tiny_learner(), every=0)
