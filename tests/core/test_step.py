"""The one path of every update: plain training where nothing stands in its way, no trace where it is refused."""

from __future__ import annotations

import math

import pytest
import torch
from tests.conftest import TinyNet, full_state, same_state, tiny_batch, tiny_learner
from torch import nn
from torch.nn.functional import cross_entropy

from taster import COMMIT, Action, Batch, Guard, Learner, ScreenedBatch, View, reject
from taster.errors import BatchError, GuardError, LabelError, LossError, SmallBatchError, TasterError


def plain_twin(learner: Learner) -> tuple[nn.Module, torch.optim.Optimizer]:
    twin = TinyNet()
    twin.load_state_dict(learner.model.state_dict())
    kind = type(learner.optimizer)
    groups = {k: v for k, v in learner.optimizer.param_groups[0].items() if k in ("lr", "momentum", "weight_decay")}
    return twin, kind(twin.parameters(), **groups)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_empty_guard_is_plain_training_bit_for_bit(optimizer: str) -> None:
    learner = tiny_learner(optimizer=optimizer)
    twin, twin_optimizer = plain_twin(learner)
    for i in range(50):
        batch = tiny_batch(seed=i)
        assert learner.step(batch.x, batch.y).verdict.committed
        twin_optimizer.zero_grad()
        cross_entropy(twin(batch.x), batch.y).backward()
        twin_optimizer.step()
        assert all(map(torch.equal, learner.model.state_dict().values(), twin.state_dict().values()))


def test_a_scheduler_over_the_optimizer_goes_on_working() -> None:
    learner = tiny_learner()
    scheduler = torch.optim.lr_scheduler.StepLR(learner.optimizer, 1, gamma=0.5)
    batch = tiny_batch()
    learner.step(batch.x, batch.y)
    scheduler.step()
    learner.guard = Guard(gates=[lambda change: reject("no")])
    learner.step(batch.x, batch.y)
    assert learner.optimizer.param_groups[0]["lr"] == 0.05


def test_the_record_tells_all_of_a_step() -> None:
    def halve(gradient: dict[str, torch.Tensor], view: View) -> dict[str, torch.Tensor]:
        return {name: value / 2 for name, value in gradient.items()}

    def drop_two(admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        mask = torch.zeros(len(admitted.batch), dtype=torch.bool)
        mask[:2] = True
        return admitted.drop(mask, "two too many")

    def darken(admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        batch = admitted.batch
        mask = torch.zeros(len(batch), dtype=torch.bool)
        mask[0] = True
        return admitted.correct(Batch(batch.x * 0.5, batch.y), mask)

    def fine(change: object) -> object:
        return COMMIT

    learner = tiny_learner(guard=Guard([drop_two, darken], [halve], [fine]))
    record = learner.step(tiny_batch())
    assert (record.step, record.samples, record.dropped, record.corrected) == (0, 8, 2, 1)
    assert record.loss is not None
    assert record.loss > 0
    assert record.gradient_norm_after == pytest.approx(record.gradient_norm_before / 2, rel=1e-5)
    assert {"drop_two", "darken", "halve", "fine", "gradient", "update", "total"} <= set(record.seconds)
    assert record.phase is None
    assert learner.step(tiny_batch()).step == 1


def test_screens_see_to_the_batch_in_their_order_and_weights_weigh() -> None:
    def weigh(admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        return admitted.weight(torch.tensor([2.0] * 4 + [0.0] * 4))

    batch = tiny_batch()
    weighted = tiny_learner(guard=Guard(screens=[weigh]))
    weighted.model.eval()
    record = weighted.step(batch)
    other = tiny_learner()
    other.model.eval()
    expected = cross_entropy(other.model(batch.x[:4]), batch.y[:4])
    assert record.loss == pytest.approx(expected.item(), rel=1e-6)


def test_the_worst_of_several_gates_speaks() -> None:
    def objector(change: object) -> object:
        return reject("first") if True else COMMIT

    learner = tiny_learner(guard=Guard(gates=[lambda c: COMMIT, objector, lambda c: reject("second")]))
    record = learner.step(tiny_batch())
    assert (record.verdict.action, record.verdict.stage, record.verdict.reason) == (Action.REJECT, "objector", "first")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("warm", [0, 3])
def test_a_rejected_step_leaves_no_trace(optimizer: str, warm: int) -> None:
    learner = tiny_learner(optimizer=optimizer)
    for i in range(warm):
        learner.step(tiny_batch(seed=i))
    before = full_state(learner)
    learner.guard = Guard(gates=[lambda change: reject("no")])
    for i in range(3):
        assert not learner.step(tiny_batch(seed=10 + i)).verdict.committed
        assert same_state(before, full_state(learner))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_finite_are_refused(value: float) -> None:
    learner = tiny_learner()
    learner.step(tiny_batch())
    before = full_state(learner)
    batch = tiny_batch(seed=1)
    batch.x[3, 0, 2, 2] = value
    record = learner.step(batch)
    assert record.verdict.action is Action.REJECT
    assert record.verdict.stage == "finite_values"
    assert "NaN or infinity" in record.verdict.reason
    assert same_state(before, full_state(learner))


def test_a_loss_that_is_not_finite_is_refused_and_its_batch_norm_undone() -> None:
    learner = tiny_learner()
    learner.step(tiny_batch())
    before = full_state(learner)
    learner.loss = lambda output, y: cross_entropy(output, y) * math.inf
    record = learner.step(tiny_batch(seed=1))
    assert "loss" in record.verdict.reason
    assert record.to_dict()["loss"] is None
    assert same_state(before, full_state(learner))


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
            return grad * math.nan

    learner = tiny_learner()
    before = full_state(learner)
    learner.loss = lambda output, y: Steep.apply(cross_entropy(output, y))
    record = learner.step(tiny_batch())
    assert "gradient norm" in record.verdict.reason
    assert same_state(before, full_state(learner))


def test_a_transform_that_breaks_the_gradient_is_refused() -> None:
    learner = tiny_learner(guard=Guard(transforms=[lambda g, view: {k: v * math.nan for k, v in g.items()}]))
    before = full_state(learner)
    assert not learner.step(tiny_batch()).verdict.committed
    assert same_state(before, full_state(learner))


def faulty_call(learner: Learner, kind: str) -> None:
    batch = tiny_batch()
    if kind == "labels":
        learner.step(batch.x, batch.y + 2)
    elif kind == "negative label":
        learner.step(batch.x, batch.y - 1)
    elif kind == "empty":
        learner.step(batch.x[:0], batch.y[:0])
    elif kind == "one sample":
        learner.model.fc = nn.Sequential(nn.BatchNorm1d(4), learner.model.fc)
        learner.step(batch.x[:1], batch.y[:1])
    elif kind == "bytes":
        learner.step((batch.x * 255).to(torch.uint8), batch.y)
    elif kind == "range":
        learner.step(batch.x * 255, batch.y)
    elif kind == "negative":
        learner.step(batch.x - 0.5, batch.y)
    elif kind == "lengths":
        learner.step(batch.x, batch.y[:3])
    elif kind == "short labels":
        learner.step(batch.x, batch.y.int())
    elif kind == "column":
        learner.step(batch.x, batch.y[:, None])
    elif kind == "channels":
        learner.step(batch.x.expand(-1, 2, -1, -1), batch.y)
    elif kind == "no pixels":
        learner.step(batch.x[..., :0], batch.y)
    elif kind == "list":
        learner.step([1.0], batch.y)
    elif kind == "vector loss":
        learner.loss = lambda output, y: cross_entropy(output, y, reduction="none")
        learner.step(batch)
    elif kind == "float loss":
        learner.loss = lambda output, y: 1.0
        learner.step(batch)
    elif kind == "detached loss":
        learner.loss = lambda output, y: cross_entropy(output.detach(), y)
        learner.step(batch)


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("labels", LabelError, "wanted 0 to 2"),
        ("negative label", LabelError, "got labels from -1"),
        ("empty", BatchError, "empty batch"),
        ("one sample", SmallBatchError, "wanted at least 2"),
        ("bytes", BatchError, "divided by 255"),
        ("range", BatchError, r"wanted \[0.0, 1.0\]"),
        ("negative", BatchError, "got samples from -0"),
        ("lengths", BatchError, "8 samples in x and 3 in y"),
        ("list", BatchError, "got list"),
        ("short labels", LabelError, "wanted torch.int64"),
        ("column", LossError, r"cannot take an output \[8, 3\] and labels \[8, 1\]"),
        ("channels", BatchError, r"cannot take samples \[8, 2, 6, 6\]"),
        ("no pixels", BatchError, "empty batch"),
        ("vector loss", LossError, r"shape \[8\]"),
        ("float loss", LossError, "returned float"),
        ("detached loss", LossError, "not connected"),
    ],
)
def test_a_malformed_call_is_told_and_changes_nothing(kind: str, error: type[TasterError], message: str) -> None:
    learner = tiny_learner()
    learner.step(tiny_batch())
    before = {k: v.clone() for k, v in learner.model.state_dict().items()}
    momentum = [s["momentum_buffer"].clone() for s in learner.optimizer.state.values()]
    with pytest.raises(error, match=message):
        faulty_call(learner, kind)
    after = learner.model.state_dict()
    if kind != "one sample":  # that one puts a layer in
        assert all(torch.equal(after[k], v) for k, v in before.items())
    assert torch.equal(after["bn.running_mean"], before["bn.running_mean"])
    assert all(
        torch.equal(s["momentum_buffer"], m) for s, m in zip(learner.optimizer.state.values(), momentum, strict=True)
    )
    assert learner.steps == 1


def test_ignored_labels_of_a_loss_are_let_through() -> None:
    learner = tiny_learner()
    learner.loss = nn.CrossEntropyLoss(ignore_index=-100)
    batch = tiny_batch()
    batch.y[0] = -100
    assert learner.step(batch).verdict.committed


def test_other_data_than_images_can_be_let_through() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(20, 2))
    learner = Learner(model, torch.optim.Adam(model.parameters()), cross_entropy, input_range=None)
    record = learner.step(torch.randint(0, 10, (6, 5)), torch.randint(0, 2, (6,)))
    assert record.verdict.committed


def test_a_screen_that_drops_everything_skips_the_step() -> None:
    def nothing(admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        return admitted.drop(torch.ones(len(admitted.batch), dtype=torch.bool), "all alike")

    learner = tiny_learner(guard=Guard(screens=[nothing]))
    before = full_state(learner)
    record = learner.step(tiny_batch())
    assert (record.verdict.stage, record.verdict.reason, record.dropped, record.loss) == (
        "nothing",
        "all alike",
        8,
        None,
    )
    assert same_state(before, full_state(learner))


def test_screens_that_leave_too_little_for_batch_norm_refuse_instead_of_raising() -> None:
    def all_but_one(admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        mask = torch.ones(len(admitted.batch), dtype=torch.bool)
        mask[0] = False
        return admitted.drop(mask, "odd ones")

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy, Guard(screens=[all_but_one]))
    record = learner.step(tiny_batch())
    assert record.verdict.action is Action.REJECT
    assert "wanted at least 2" in record.verdict.reason


def test_an_exception_in_a_gate_undoes_the_update() -> None:
    def broken(change: object) -> object:
        raise RuntimeError("oops")

    learner = tiny_learner(guard=Guard(gates=[broken]))
    before = full_state(learner)
    with pytest.raises(RuntimeError, match="oops"):
        learner.step(tiny_batch())
    assert same_state(before, full_state(learner))


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        (Guard(screens=[lambda admitted, view: None]), "wanted the ScreenedBatch"),
        (Guard(transforms=[lambda g, view: {}]), "a gradient with the same names"),
        (Guard(transforms=[lambda g, view: None]), "a gradient with the same names"),
        (Guard(gates=[lambda change: True]), "wanted a Verdict"),
    ],
)
def test_a_stage_that_breaks_its_protocol_is_named(guard: Guard, message: str) -> None:
    learner = tiny_learner(guard=guard)
    before = full_state(learner)
    with pytest.raises(GuardError, match=message):
        learner.step(tiny_batch())
    assert same_state(before, full_state(learner))


def test_loss_scaling_scales_the_gradient() -> None:
    batch = tiny_batch()
    one, ten = tiny_learner(), tiny_learner()
    a = one.step(batch).gradient_norm_before
    b = ten.step(Batch(batch.x, batch.y, loss_weight=10.0)).gradient_norm_before
    assert b == pytest.approx(10 * a, rel=1e-5)


def test_bfloat16_trains_in_mixed_precision() -> None:
    learner = tiny_learner(precision="bfloat16")
    losses = [learner.step(tiny_batch()).loss for _ in range(30)]
    assert losses[-1] < losses[0]
    assert all(p.dtype == torch.float32 for p in learner.model.parameters())


def test_a_refused_gradient_does_not_stay_behind() -> None:
    learner = tiny_learner(guard=Guard(gates=[lambda change: reject("no")]))
    learner.step(tiny_batch())
    assert all(p.grad is None for p in learner.model.parameters())
