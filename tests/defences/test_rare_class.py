"""A rare class: a first look sees enough of it, so that it is not unlearned between two audits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.conftest import tiny_batch, tiny_learner
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import taster
from taster import Batch, Learner
from taster.defences import probe_gate
from taster.defences.gates.anchor_limits import anchor_limits
from taster.defences.gates.anchor_test import fallen
from taster.defences.gates.check_memory import CheckMemory
from taster.defences.gates.class_room import class_room, class_sums, with_room
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.probe_comparison import ProbeComparison
from taster.defences.gates.row_order import FIRST, RowOrder
from taster.defences.gates.swings import Swings
from taster.errors import CheckpointError


def test_a_first_look_has_more_of_rare_classes_which_count_there_alone() -> None:
    classes = [1] * 50 + [0] * 950
    order = RowOrder(1000, 3, classes=classes)
    codes = torch.tensor(classes)
    for block in range(4):
        first, *others = order.looks(block)
        assert first.overall is not None
        assert isinstance(first.rows, Tensor)
        assert int(first.overall.sum()) == FIRST
        assert (codes[first.rows[~first.overall]] == 1).all()
        assert 24 <= int((codes[first.rows] == 1).sum()) <= 50
        assert torch.unique(first.rows).numel() == len(first.rows)
        # Over all looks each sample counts once among all, and once in its class.
        overall, by_class = torch.zeros(1000), torch.zeros(1000)
        for look in (first, *others):
            overall[look.rows] += 1 if look.overall is None else look.overall.float()
            by_class[look.rows] += 1 if look.by_class is None else look.by_class.float()
        assert (overall == 1).all()
        assert (by_class == 1).all()


def test_classes_of_about_even_shares_are_looked_at_as_they_come() -> None:
    for classes in (None, [i % 10 for i in range(1000)], [int(i < 300) for i in range(1000)]):
        looks = RowOrder(1000, 3, classes=classes).looks(0)
        assert len(looks[0].rows) == FIRST  # type: ignore[arg-type]
        assert all(look.overall is None and look.by_class is None for look in looks)


def test_a_class_that_was_struck_is_looked_at_by_as_many_as_there_is_room_for() -> None:
    classes = [i % 10 for i in range(1000)]
    codes = torch.tensor(classes)
    order = RowOrder(1000, 3, classes=classes)
    for block in range(4):
        usual, struck = order.looks(block), order.looks(block, [3])
        for look, least in ((usual[0], 0), (struck[0], FIRST // 2)):
            assert int((codes[look.rows] == 3).sum()) >= least
        assert len(struck[0].rows) < 1.5 * FIRST  # type: ignore[arg-type]
        assert struck[0].overall is not None
        assert (codes[struck[0].rows[~struck[0].overall]] == 3).all()  # type: ignore[index]
        shared = order.looks(block, [3, 4])[0].rows
        assert {int((codes[shared] == label).sum()) for label in (3, 4)} == {FIRST // 4}
        many = order.looks(block, [5, 4, 3, 2, 1, 0])[0].rows
        assert min(int((codes[many] == label).sum()) for label in (5, 4, 3, 2)) >= FIRST // 8
        assert order.looks(block, [3])[0].rows.tolist() == struck[0].rows.tolist()  # type: ignore[union-attr]


def test_a_rare_class_is_looked_at_no_less_where_others_are_struck() -> None:
    classes = [9] * 50 + [i % 9 for i in range(950)]
    codes = torch.tensor(classes)
    order = RowOrder(1000, 3, classes=classes)
    for struck in ([], [0], [0, 1, 2], [0, 1, 2, 9], [9, 0, 1, 2, 3, 4], list(range(10))):
        assert int((codes[order.looks(0, struck)[0].rows] == 9).sum()) >= 24


def test_classes_struck_are_remembered_for_the_alert_the_last_one_first() -> None:
    memory, record = CheckMemory(), tiny_learner().step(tiny_batch())

    def after(refused: list[int], alert_steps: int = 3) -> list[int]:
        memory.count(record, refused=bool(refused), alert_steps=alert_steps)
        for code in refused:
            memory.was_struck(code, alert_steps)
        return memory.classes_struck

    assert after([4]) == [4]
    assert after([2, 7]) == [2, 7, 4]
    assert after([4]) == [4, 2, 7]
    assert [after([]) for _ in range(3)] == [[4, 2, 7], [4], []]
    assert CheckMemory.from_state({**CheckMemory().state_dict(), "struck": {"4": 2}}).classes_struck == [4]
    assert after([5], alert_steps=0) == []


def test_confidence_in_a_class_counts_where_its_own_loss_has_risen_and_accuracy_not_grown() -> None:
    """The loss of all samples falls; of two classes one is unlearned, or both are less sure and no worse for it."""
    n = 400
    criteria = HarmCriteria(1.0, 0.01, class_tolerance=5.0)
    criteria.prepare(torch.arange(n) % 4, {})
    struck, comparison = torch.arange(n) % 4 == 3, ProbeComparison(criteria)
    right = torch.rand(n, generator=torch.Generator().manual_seed(0)) < 0.9

    def found(probability: Tensor, loss: Tensor, now: Tensor = right) -> list[tuple[str, int]]:
        before = {"correct": right, "probability": torch.full((n,), 0.9), "loss": torch.full((n,), 1.0)}
        after = {"correct": now, "probability": probability, "loss": loss}
        drops = comparison.drops_at(before, after, slice(None))
        return [(one.quantity, one.group) for one in fallen(criteria, drops, {}, Swings())]

    noise = 0.01 * torch.randn(n, generator=torch.Generator().manual_seed(1))
    less = torch.full((n,), 0.75) + noise
    assert found(torch.where(struck, less, 0.9 + noise), torch.where(struck, 1.5, 0.5) + noise) == [("probability", 4)]
    assert found(less, torch.full((n,), 0.8) + noise) == []  # better calibrated
    # The price of what is new: accuracy has grown.
    assert found(torch.where(struck, less, 0.9 + noise), torch.where(struck, 1.5, 0.5) + noise, right | ~struck) == []


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, draw: Callable[[int], Batch]) -> None:
    """Trains in the plain way."""
    for _ in range(600):
        batch = draw(64)
        optimizer.zero_grad()
        cross_entropy(model(batch.x), batch.y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def test_a_class_is_held_after_it_was_found_to_be_struck_and_its_confidence_counts() -> None:
    """A fifth of each batch's samples of a class in ten bear another label; each step costs it a point or two."""
    draw = torch.Generator().manual_seed(0)
    centres = 1.2 * torch.randn(10, 20, generator=draw)

    def sample(count: int) -> Batch:
        y = torch.multinomial(torch.tensor([1.0] * 9 + [0.5]), count, True, generator=draw)
        return Batch(centres[y] + 1.5 * torch.randn(count, 20, generator=draw), y)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 10))
    learn(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), sample)
    probe, test = sample(1000), sample(20_000)

    def recall() -> float:
        with torch.no_grad():
            return 100 * float((model(test.x).argmax(1) == 9)[test.y == 9].float().mean())

    before = recall()
    learner = Learner(model, torch.optim.SGD(model.parameters(), 0.02), cross_entropy, taster.guard(probe, seed=0))
    others, ninth = sample(4000), sample(4000)
    others = others.select(others.y != 9)
    ninth = ninth.select(ninth.y == 9)
    records = []
    for _ in range(80):
        of, at = (torch.randint(len(d), (n,), generator=draw) for d, n in ((others, 28), (ninth, 4)))
        x, y = torch.cat([others.x[of], ninth.x[at]]), torch.cat([others.y[of], torch.zeros(4, dtype=torch.int64)])
        records.append(learner.step(x, y))
    assert any(record.verdict.evidence.get("class") == 9 for record in records)
    assert before - recall() < 30


def test_a_class_of_a_twentieth_is_not_unlearned_by_batches_that_deny_it() -> None:
    torch.manual_seed(0)
    centre = torch.zeros(20)
    centre[:4] = 1.0

    def draw(count: int) -> Batch:
        y = (torch.rand(count) < 0.05).long()
        return Batch(torch.randn(count, 20) + 1.6 * y[:, None] * centre, y)

    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    learn(model, optimizer, draw)
    probe, test = draw(1000), draw(20_000)

    def recall() -> float:
        with torch.no_grad():
            return float((model(test.x).argmax(1) == 1)[test.y == 1].float().mean())

    before = recall()
    assert before > 0.6
    learner = Learner(model, optimizer, cross_entropy, taster.guard(probe, seed=0))
    for _ in range(120):
        x = draw(32).x
        learner.step(x, torch.zeros(32, dtype=torch.int64))
    # Unguarded, and where looks see too few of the class, it ends under 0.05.
    assert recall() > 0.2


def test_a_class_may_be_traded_by_as_much_as_its_accuracy_says() -> None:
    criteria = HarmCriteria(1.0, 0.01, class_tolerance=5.0)
    criteria.prepare(torch.tensor([0] * 100 + [1] * 100 + [2] * 50), {})
    right = torch.zeros(250, dtype=torch.bool)
    right[:50], right[100:198] = True, True
    measured = {"correct": right, "loss": torch.zeros(250)}
    sums = class_sums(criteria, measured)
    assert sums["correct"].tolist() == [50, 98, 0]
    room = class_room(criteria, sums)

    def limits(scale: float) -> np.ndarray:
        scales = with_room(criteria, {"correct": np.full(4, scale)}, room)
        return anchor_limits(criteria, "correct", 4, scales, Swings())

    # A point overall; 0.4 · √(p (1 − p)) in a class, and no less than its tolerance.
    assert limits(0.0) == pytest.approx([0.01, 0.2, 0.4 * math.sqrt(0.98 * 0.02), 0.05])
    # What steps seem to swing in a class counts for twice that at most, overall it counts.
    assert limits(0.03) == pytest.approx([0.3, 0.4, 0.2, 0.2])
    assert with_room(criteria, {}, room) == {}


def test_a_state_of_other_classes_is_refused_before_anything_is_loaded() -> None:
    x = torch.randn(300, 20)

    def learner(y: Tensor, **options: float | None) -> Learner:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 10))
        return Learner(
            model, torch.optim.SGD(model.parameters(), 0.01), cross_entropy, probe_gate(Batch(x, y), **options)
        )  # type: ignore[arg-type]

    ten, five = torch.arange(300) % 10, torch.arange(300) % 5
    saved = learner(ten)
    saved.step(x[:32], ten[:32])
    state = saved.state_dict()
    for other, said in (
        (learner(five), "the 5 classes 0, 1, 2, 3, 4"),
        (learner(ten, class_tolerance=None), "no classes"),
    ):
        with pytest.raises(CheckpointError, match=rf"tests the 10 classes 0, 1, 2, 3, 4, ..., wanted {said}"):
            other.load_state_dict(state)
        assert other.steps == 0
    again = learner(ten)
    again.load_state_dict(state)
    assert again.step(x[:32], ten[:32]).verdict == saved.step(x[:32], ten[:32]).verdict
