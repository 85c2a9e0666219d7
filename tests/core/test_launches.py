"""A guarded step hardly waits for the device and hardly launches more than a plain one: counts, not times."""

from __future__ import annotations

import math

import pytest
import torch
from benchmarks.launches import StepCounts, counted, loop, probe, yes
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner
from torch import Tensor

from taster import COMMIT, Batch, CandidateUpdate, Guard, Guarded, Learner, StepRecord, Verdict, guard, reject
from taster.core.foreach import cloned_tensors, copy_tensors
from taster.core.host import Readings, to_host
from taster.defences.gates.anchor import UNTRAINED
from taster.defences.gates.probe_gate import ProbeGate
from taster.errors import BatchError, LabelError
from taster.models import MODELS

CPU = torch.device("cpu")
TIMES = 1.3
"""Launches of a guarded step, by those of a plain one."""


class ProbeReader:
    """A gate as it should be: a wait for each chunk of the probe, and none beside it."""

    max_rewind = 2  # so that there are snapshots

    def __init__(self, trusted: Batch, chunk: int) -> None:
        self.name = "probe_reader"
        self._parts = [trusted.select(slice(i, i + chunk)) for i in range(0, len(trusted), chunk)]
        self.seen: list[float] = []

    def __call__(self, change: CandidateUpdate) -> Verdict:
        for part in self._parts:
            readings = Readings()
            with torch.no_grad():
                losses = change.after.losses(change.after.forward(part), part, readings=readings)
            readings.add([losses], lambda found: self.seen.extend(found[0]))
            readings.read()
        return COMMIT


@pytest.fixture(scope="module")
def plain() -> int:
    return counted(loop("resnet18", "plain", None, CPU, batch=2)).launches.total()


@pytest.fixture(scope="module")
def forward() -> int:
    """Launches of one pass over a chunk of the probe."""
    model = MODELS["resnet18"]((3, 32, 32), 10).eval()
    with torch.no_grad(), StepCounts() as counts:
        model(probe(CPU, 4).x)
    return counts.launches.total()


def no(change: CandidateUpdate) -> Verdict:
    return reject("no") if change.step else COMMIT  # a first step makes the momentum


@pytest.mark.parametrize("kind", ["Learner", "Guarded"])
@pytest.mark.parametrize("gates", [[], [yes], [no]], ids=["no gate", "commits", "rejects"])
def test_a_step_waits_once_and_launches_little_beside_its_gates(kind: str, gates: list[object], plain: int) -> None:
    counts = counted(loop("resnet18", kind, Guard(gates=gates), CPU, batch=2))
    assert counts.readings == 1
    assert not counts.waits
    assert counts.launches.total() <= TIMES * plain


@pytest.mark.parametrize("kind", ["Learner", "Guarded"])
@pytest.mark.parametrize("chunks", [1, 3])
def test_each_chunk_of_the_probe_is_one_more_wait(kind: str, chunks: int, plain: int, forward: int) -> None:
    gate = ProbeReader(probe(CPU, 4 * chunks), 4)
    step = loop("resnet18", kind, Guard(gates=[gate]), CPU, batch=2)
    first, second = counted(step), counted(step, warm=0)  # a snapshot is taken in every second step at most
    assert len(gate.seen) == 4 * chunks * 7
    for counts in (first, second):
        assert counts.readings == 1 + chunks
        assert not counts.waits
        assert counts.launches.total() <= TIMES * (plain + (chunks - 1) * forward) + forward


def probed(trained: bool) -> tuple[torch.nn.Module, Batch]:
    """A model, and a probe that it knows nothing of, or one of which it is right on nine samples in ten."""
    torch.manual_seed(0)
    model, trusted = MODELS["resnet18"]((3, 32, 32), 10).eval(), probe(CPU, 256)
    trusted = Batch(trusted.x[:, :, :8, :8], trusted.y)  # as many launches, and less work
    if trained:
        head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
        with torch.no_grad():
            head.bias -= model(trusted.x).mean(0)  # else it would see one class in all of them
            y = model(trusted.x).argmax(1)
        y[::10] = (y[::10] + 1) % 10
        trusted = Batch(trusted.x, y)
    return model.train(), trusted


@pytest.mark.parametrize("kind", ["Learner", "Guarded"])
@pytest.mark.parametrize("trained", [False, True], ids=["at chance", "trained"])
def test_the_recommended_guard_waits_once_a_look_and_launches_little_beside_its_probe(
    kind: str, trained: bool, plain: int, forward: int
) -> None:
    model, trusted = probed(trained)
    recommended = guard(trusted, seed=0)
    gate = recommended.gates[0]
    assert isinstance(gate, ProbeGate)
    step = loop(model, kind, recommended, CPU, batch=2)
    for _ in range(2):
        step()
    for audited, moved in ((False, False), (False, False), (True, False), (False, True), (False, False)):
        if audited:
            gate._memory.unaudited = 1e9
        with StepCounts() as counts:
            record = step()
        assert isinstance(record, StepRecord)
        assert record.verdict.committed
        assert (record.verdict.reason == UNTRAINED) is not trained
        # The batch's and the look's; the audit's and a new anchor's; the loss of one that has moved, in the next step.
        assert counts.readings <= 2 + 2 * audited + moved
        assert not counts.waits
        passes = counts.launches["addmm"] - 1  # the head's: one a pass
        assert passes == 1 or audited
        if not audited:
            assert counts.launches.total() - passes * forward <= TIMES * plain
    assert gate._memory.unaudited < 100  # it did audit


def test_the_counter_sees_waits_and_lists_that_fall_apart() -> None:
    x, whole = torch.rand(3), torch.arange(3)
    with StepCounts() as counts:
        float(x.sum()), bool(x.isnan().any()), x[x > 0.5], (x > 0.5).nonzero(), torch.equal(x, x), x.tolist(), x.cpu()
        to_host(x, whole)
    assert counts.readings == 1
    assert counts.waits.total() == 7
    with StepCounts() as counts:
        torch._foreach_copy_([x, whole], [x.clone(), whole.clone()])
    assert counts.launches["_foreach_copy_"] == 2


def test_copies_go_by_kind_and_arrive_bit_for_bit() -> None:
    g = torch.Generator().manual_seed(0)
    given: list[Tensor] = [torch.rand(4, 3, generator=g) for _ in range(20)]
    given += [torch.arange(5), torch.tensor(3), torch.tensor([True, False]), torch.rand(3, generator=g).half()]
    given += [torch.rand(4, 3, generator=g).t(), torch.rand(6, generator=g)[::2], torch.rand(2, 1).expand(2, 3)]
    given += [torch.rand(2, dtype=torch.complex64), torch.tensor([1.5]).to(torch.float8_e4m3fn), torch.tensor(math.nan)]
    given += [torch.eye(3).to_sparse(), torch.empty(0)]
    with StepCounts() as counts:
        copies = cloned_tensors(given)
    assert counts.launches["_foreach_copy_"] == 8  # 5 dtypes, float32 apart where it is transposed or has gaps
    for tensor, copied in zip(given, copies, strict=True):
        assert copied.dtype == tensor.dtype
        assert copied.layout == tensor.layout
        own, other = (t.to_dense().float() if t.is_sparse or t.element_size() == 1 else t for t in (tensor, copied))
        assert torch.equal(own.nan_to_num(), other.nan_to_num())
        assert tensor.numel() == 0 or tensor.is_sparse or copied.data_ptr() != tensor.data_ptr()
    copies[0].zero_()
    copy_tensors(copies[:1], given[:1])
    assert torch.equal(copies[0], given[0])


class Fails(torch.nn.Module):
    """Cannot compute with samples that are not finite, nor with those above a limit."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if not bool((x < 100).all()):
            raise ValueError("too much")
        out: Tensor = self.inner(x)
        return out


@pytest.fixture
def failing() -> Learner:
    model = Fails(tiny_learner().model)
    return Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.nn.functional.cross_entropy)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_batch_that_is_not_finite_is_refused_even_where_the_model_fails_on_it(failing: Learner, value: float) -> None:
    batch = tiny_batch()
    batch.x[0] = value
    record = failing.step(batch)
    assert record.verdict.stage == "finite_values"
    assert (record.loss, record.gradient_norm_before, record.dropped, record.attempts) == (None, None, 8, 0)


def test_what_a_model_fails_on_is_told_where_the_batch_is_finite(failing: Learner) -> None:
    with pytest.raises(BatchError, match="too much"):
        failing.step(tiny_batch().x * 0 + 200, tiny_batch().y)


def test_a_batch_that_is_not_finite_is_refused_before_its_labels_are_looked_at() -> None:
    learner, batch = tiny_learner(), tiny_batch()
    labels = batch.y + 1000
    before = full_state(learner)
    with pytest.raises(LabelError, match=r"labels from 100\d to 100\d"):
        learner.step(batch.x, labels)
    assert same_state(before, full_state(learner))
    assert learner.step(batch.x * math.nan, labels).verdict.stage == "finite_values"
    assert same_state({**before, "steps": 1}, {**full_state(learner), "steps": 1})


def test_in_a_block_a_refusal_is_known_as_soon_as_it_is_asked_for() -> None:
    learner, batch = tiny_learner(), tiny_batch()
    guarded = Guarded(learner.model, learner.optimizer)
    batch.x[0] = math.nan
    with guarded.step(batch) as step:
        assert step.refused
    assert step.record is not None
    assert (step.record.verdict.stage, step.record.dropped) == ("finite_values", 8)
