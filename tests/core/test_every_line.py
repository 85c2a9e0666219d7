"""An exception at any line of a step leaves the learner usable and as before; a checkpoint at any line resumes."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from tests.core.zoo import DEVICE, BrokenError, batch, same, snapshot_of
from torch import nn
from torch.nn.functional import cross_entropy

import taster
from taster import Guard, Guarded, Learner, SnapshotBuffer, Verdict, reject, rewind
from taster.defences import probe_gate
from taster.errors import TasterError

# A file that an exception leaves open between two lines is closed by the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SOURCE = str(Path(taster.__file__).parent)


class Judge:
    """Rejects or rewinds at every third step, and counts what it observed."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict, self.seen = verdict, [0]

    def __call__(self, update: Any) -> Verdict:
        whole = update.attempt == 0
        return self.verdict if update.step % 3 == 2 and whole else taster.COMMIT

    def observe(self, record: Any, view: Any) -> None:
        self.seen[0] += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = list(state["seen"])


def first_half(screened: Any, view: Any) -> Any:
    """Salvages half of a refused batch once."""
    n = len(screened.batch)
    return screened.drop(torch.arange(n) >= 3, "half") if n > 3 else screened


def halved(gradient: Any, view: Any) -> Any:
    return {name: value / 2 for name, value in gradient.items()}


def learner(case: str, directory: Path | None = None) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    guards = {
        "commit": Guard(transforms=[halved], gates=[Judge(taster.COMMIT)]),
        "reject": Guard(gates=[Judge(reject("no"))]),
        "salvage": Guard(gates=[Judge(reject("no"))], salvage=[first_half]),
        "rewind": Guard(gates=[Judge(rewind(1, "back"))]),
        "rewind on disk": Guard(gates=[Judge(rewind(1, "back"))]),
        "probe": probe_gate(batch(40, n=30), seed=1),
    }
    snapshots = SnapshotBuffer(capacity=2, directory=directory if case == "rewind on disk" else None)
    return Learner(model, optimizer, cross_entropy, guards[case], snapshots=snapshots)


CASES = ("commit", "reject", "salvage", "rewind", "rewind on disk", "probe")


class AtLine:
    """Calls something at the n-th line of taster's own code."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.number, self.act, self.lines = number, act, 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.number:
                sys.settrace(None)
                self.act()
        return self

    def run(self, step: Callable[[], Any]) -> int:
        sys.settrace(self)
        try:
            step()
        finally:
            sys.settrace(None)
        return self.lines


def fail() -> None:
    raise BrokenError


@contextmanager
def failing() -> Iterator[None]:
    """Ends at the failure, or at an error of taster's own that it was the cause of."""
    try:
        yield
    except BrokenError:
        pass
    except TasterError as error:
        if not isinstance(error.__cause__, BrokenError):
            raise


def lines_of(case: str, directory: Path, every: int, seed: int) -> range:
    subject = prepared(case, directory)
    total = AtLine(0, fail).run(lambda: subject.step(batch(seed)))
    assert total > 100
    return range(1, total + 1, every)


def prepared(case: str, directory: Path) -> Learner:
    subject = learner(case, directory)
    for seed in range(2):
        subject.step(batch(seed))
    return subject


def everything(subject: Learner | Guarded) -> dict[str, Any]:
    snapshots = subject.snapshots
    assert snapshots is not None
    files = () if snapshots._directory is None else sorted(path.name for path in snapshots._directory.iterdir())
    return {**snapshot_of(subject), "ring": snapshots.steps, "files": files}


def checkpoint_at(line: int, subject: Learner) -> dict[str, Any]:
    """The state asked for at a line of the third step, which goes on after it."""
    saved: list[dict[str, Any]] = []
    AtLine(line, lambda: saved.append(copy.deepcopy(subject.state_dict()))).run(lambda: subject.step(batch(2)))
    return saved[0]


@pytest.mark.parametrize("case", CASES)
def test_an_exception_at_any_line_is_as_if_there_had_been_no_step(case: str, tmp_path: Path, thorough: bool) -> None:
    subject = prepared(case, tmp_path / "a")
    after = prepared(case, tmp_path / "b")
    after.step(batch(2))
    done = everything(after)
    before = everything(subject)
    for line in lines_of(case, tmp_path / "c", 1 if thorough else 47, seed=2):
        with failing():  # a step that is repeated has fewer lines than the first
            AtLine(line, fail).run(lambda: subject.step(batch(2)))
        now = everything(subject)
        if now["learner"]["steps"] == 3:  # the step was over: all of it is there
            assert same({**now, "files": done["files"]}, done), line
            return
        assert same(now, before), line
    subject.step(batch(2))
    assert same(everything(subject), done)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_at_any_line_is_of_before_or_after_the_step(case: str, tmp_path: Path, thorough: bool) -> None:
    before = copy.deepcopy(prepared(case, tmp_path / "a").state_dict())
    reference = prepared(case, tmp_path / "b")
    reference.step(batch(2))
    after = copy.deepcopy(reference.state_dict())
    for line in lines_of(case, tmp_path / "c", 1 if thorough else 101, seed=2):
        subject = prepared(case, tmp_path / f"d{line}")
        state = checkpoint_at(line, subject)
        assert same(state, before if state["steps"] == 2 else after), line
        assert same(subject.state_dict(), after), line  # asking has changed nothing


class Looped:
    """`Guarded` with the step of a learner, so that the same is asked of it."""

    def __init__(self, made: Learner, snapshots: SnapshotBuffer | None) -> None:
        self.guarded = Guarded(made.model, made.optimizer, made.guard, snapshots=snapshots)

    def step(self, given: taster.Batch) -> None:
        guarded = self.guarded
        with guarded.step(given) as step:
            step.loss = cross_entropy(guarded.model(step.batch.x), step.batch.y)
            step.loss.backward()
            guarded.optimizer.step()
            guarded.optimizer.zero_grad()


class InsideGuarded(AtLine):
    """Leaves out the first line of `__exit__`: an exception there comes before anything of taster's has run."""

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        entering = event == "line" and frame.f_code.co_qualname == "GuardedStep.__exit__" and frame not in self.seen
        if entering:
            self.seen.append(frame)
            return self
        return super().__call__(frame, event, arg)

    seen: list[FrameType]

    def run(self, step: Callable[[], Any]) -> int:
        self.seen = []
        return super().run(step)


@pytest.mark.parametrize("case", ["commit", "reject", "rewind"])
def test_an_exception_at_any_line_of_a_guarded_step_is_as_if_there_had_been_none(case: str, thorough: bool) -> None:
    def prepared_loop(steps: int) -> Looped:
        subject = Looped(learner(case), SnapshotBuffer(capacity=2))
        for seed in range(steps):
            subject.step(batch(seed))
        return subject

    subject, counted = prepared_loop(2), prepared_loop(2)
    done, before = everything(prepared_loop(3).guarded), everything(subject.guarded)
    total = InsideGuarded(0, fail).run(lambda: counted.step(batch(2)))
    assert total > 100
    for line in range(1, total + 1, 1 if thorough else 23):
        with suppress(BrokenError):
            InsideGuarded(line, fail).run(lambda: subject.step(batch(2)))
        now = everything(subject.guarded)
        if now["learner"]["steps"] == 3:
            assert same(now, done), line
            return
        assert same(now, before), line
    subject.step(batch(2))
    assert same(everything(subject.guarded), done)


def test_a_checkpoint_in_the_middle_of_a_step_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = learner("rewind")
    for seed in range(6):
        whole.step(batch(seed))
    for line in lines_of("rewind", tmp_path, 211, seed=2):
        again = learner("rewind")
        again.load_state_dict(checkpoint_at(line, prepared("rewind", tmp_path)))
        for seed in range(again.steps, 6):
            again.step(batch(seed))
        assert same(snapshot_of(again), snapshot_of(whole)), line
