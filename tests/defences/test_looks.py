"""How far a gate looks: what it measures, what it reads from the device, and that nothing is measured twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from tests.conftest import tiny_batch
from torch.nn.functional import cross_entropy

from taster import Batch, Learner, Verdict, View
from taster.core.guard import CandidateUpdate
from taster.core.host import to_host
from taster.core.step_record import StepRecord
from taster.defences import probe_gate
from taster.defences.gates import anchor, class_room, loss_outlier, probe_comparison
from taster.defences.gates.row_order import FIRST

N = 10_000
OPEN = 4000
CLASSES = 4
Y = torch.arange(N) % CLASSES
PROBE = Batch(torch.arange(N), Y)


class Says(torch.nn.Module):
    """A model that says this of the probe, and keeps the indices of the samples that it was asked for."""

    log: ClassVar[list[list[int]]] = []

    def __init__(self, said: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(6.0 * torch.nn.functional.one_hot(said, CLASSES))
        self.number = len(self.log)  # copies of it write into the same list
        self.log.append([])

    @property
    def asked(self) -> list[int]:
        return self.log[self.number]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.extend(x.tolist())
        return self.logits[x.long()]


def model_and_view(said: torch.Tensor) -> tuple[Says, View]:
    model = Says(said)
    return model, Learner(model, torch.optim.SGD(model.parameters(), 0.1), cross_entropy).view()


def with_wrong(share: float, seed: int = 0) -> torch.Tensor:
    """What is right, but for a share of the samples."""
    wrong = torch.randperm(N, generator=torch.Generator().manual_seed(seed))[: round(share * N)]
    said = Y.clone()
    said[wrong] = (Y[wrong] + 1) % CLASSES
    return said


class Gate:
    """A gate before its first step, and the models that it judged."""

    def __init__(self, n: int = N, **options: Any) -> None:
        (self.gate,) = probe_gate(
            PROBE.select(slice(0, n)), task="classification", seed=5, class_tolerance=None, **options
        ).gates
        self.before, self._view = model_and_view(with_wrong(0.05, seed=9))
        self.asked: list[list[int]] = []
        self.step = 0

    def judge(self, said: torch.Tensor | None = None) -> Verdict:
        """Of a model that says this after the update, or the same as before it; and observes."""
        said = said if said is not None else self.before.logits.argmax(1)
        after, view = model_and_view(said)
        verdict: Verdict = self.gate(CandidateUpdate(self.step, tiny_batch(), {}, 1.0, self._view, view, samples=32))
        self.asked.append(after.asked)
        kept = view if verdict.committed else self._view
        if not verdict.committed:
            verdict = Verdict(verdict.action, 0, verdict.reason, self.gate.name, verdict.evidence)
        else:
            self.before = after
        self.gate.observe(StepRecord(self.step, 32, 1.0, verdict, attempts=1), kept)
        self._view, self.step = kept, self.step + 1
        return verdict

    def worse_by(self, share: float) -> torch.Tensor:
        """What the model says, and wrong on a further share of all samples."""
        said = self.before.logits.argmax(1)
        right = (said == Y).nonzero().squeeze(1)
        order = torch.randperm(len(right), generator=torch.Generator().manual_seed(1))
        wrong = right[order[: round(share * N)]]
        said = said.clone()
        said[wrong] = (Y[wrong] + 1) % CLASSES
        return said

    def shaken_by(self, share: float) -> torch.Tensor:
        """Much changes, half of it for the better: whether that is harm cannot be told from a few samples."""
        said = self.worse_by(share / 2 + 0.005)
        return torch.where(self.before.logits.argmax(1) == Y, said, Y)


@contextmanager
def readings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How often a gate reads from the device."""
    calls: list[int] = []

    def counting(*tensors: torch.Tensor) -> list[Any]:
        calls.append(len(tensors))
        return to_host(*tensors)

    with monkeypatch.context() as patch:
        for module in (class_room, loss_outlier, probe_comparison):
            patch.setattr(module, "to_host", counting)
        yield calls


def test_a_harmless_step_takes_one_look() -> None:
    gate = Gate()
    for _ in range(3):
        assert gate.judge().committed
    assert [len(asked) for asked in gate.asked] == [FIRST] * 3


def test_an_obvious_poison_takes_one_look() -> None:
    gate = Gate()
    gate.judge()
    assert not gate.judge((Y + 1) % CLASSES).committed
    assert len(gate.asked[-1]) == FIRST
    # One that breaks a fifth needs hardly more.
    assert not gate.judge(gate.worse_by(0.2)).committed
    assert len(gate.asked[-1]) <= 2 * FIRST


def test_a_doubtful_step_is_looked_at_to_the_end_but_for_the_samples_held_out() -> None:
    gate = Gate()
    assert gate.judge(gate.shaken_by(0.1)).committed
    asked = gate.asked[-1]
    assert len(asked) == OPEN
    assert len(set(asked)) == OPEN
    assert not set(asked) & set(gate.gate._order.held_out.tolist())
    # Harm a little above the tolerance is found, by as many samples as it takes.
    other = Gate()
    assert not other.judge(other.worse_by(0.04)).committed
    assert FIRST < len(other.asked[-1]) <= OPEN


def test_a_doubt_leads_to_an_audit_of_all_samples() -> None:
    gate = Gate(n=3000)
    gate.judge()
    first = gate.gate._order.looks(gate.gate._memory.block)[0].rows
    said = gate.before.logits.argmax(1)
    right = first[said[first] == Y[first]][:6]  # as if the model had fallen by five points
    said[right] = (Y[right] + 1) % CLASSES
    assert gate.judge(said).committed
    assert len(set(gate.asked[-1])) == 3000
    # Small steps add up until one does.
    other = Gate()
    for _ in range(12):
        verdict = other.judge(other.worse_by(0.006))
        if len(other.asked[-1]) > OPEN:
            break
    assert len(other.asked[-1]) > OPEN
    assert not verdict.committed


def test_each_look_is_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    gate.judge()
    looks = {FIRST: 1, 2 * FIRST: 2, 4 * FIRST: 3, 8 * FIRST: 4, 16 * FIRST: 5, OPEN: 6}
    with readings(monkeypatch) as calls:
        gate.judge()
        assert len(calls) == 1
        calls.clear()
        assert not gate.judge((Y + 1) % CLASSES).committed
        assert len(calls) == 1
        calls.clear()
        gate.judge(gate.shaken_by(0.1))
    assert len(calls) == looks[len(gate.asked[-1])] > 1


def test_each_state_and_sample_is_measured_once() -> None:
    """The update before it was measured already: of that state only samples are that were not looked at."""
    gate = Gate()
    states = [gate.before]
    for share in (0.0, 0.009, 0.0, 0.3, 0.0, 0.0, 0.3, 0.009, 0.0):
        gate.judge(gate.worse_by(share))
        states.append(gate.before)
    for model in states[1:]:
        assert len(model.asked) == len(set(model.asked)) <= N
    # The first one is measured to see whether it fits, and serves as the anchor.
    assert sorted(states[0].asked) == list(range(N))


def test_audits_take_a_tenth_of_the_work_and_see_all_samples() -> None:
    gate = Gate()
    audited = []
    for _ in range(1100):
        gate.judge()
        if len(gate.asked[-1]) > OPEN:
            audited.append(gate.step - 1)
            assert set(gate.asked[-1]) == set(range(N))
    # 32 samples learned from are 96 forward passes; a tenth of them has paid for an audit after 1,042 steps.
    assert audited == [1042]
    assert gate.gate.phase == anchor.LEVEL


def test_a_first_look_that_seems_fallen_from_the_anchor_is_audited_at_once() -> None:
    """Small steps down, each too small to see: the anchor stops them, long before an audit is due."""
    gate = Gate()
    refusal = None
    for _ in range(60):
        verdict = gate.judge(gate.worse_by(0.004))
        if not verdict.committed:
            refusal = verdict
            break
    assert refusal is not None
    assert "against the anchor" in refusal.reason
    assert len(set(gate.asked[-1])) == N
    fallen = float((gate.before.logits.argmax(1) == Y).double().mean())
    assert 0.95 - fallen < 0.06


def test_seeds_make_the_order_and_no_seed_one_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of the one order that other tests have
    firsts = []
    for seed in (1, 1, 2, None, None):
        (gate,) = probe_gate(PROBE, seed=seed).gates
        _, before = model_and_view(Y)
        after, view = model_and_view(Y)
        gate(CandidateUpdate(0, tiny_batch(), {}, 1.0, before, view))
        firsts.append(tuple(after.asked))
    assert firsts[0] == firsts[1]
    assert len(set(firsts)) == 4
