"""Whatever an attack returns, the set that is trained on lies within its budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from taster import Batch
from taster.attacks import DatasetAttack, DatasetBudget, DatasetKnowledge, Poison
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall

N, CLASSES = 10, 3


def clean_set() -> Batch:
    g = torch.Generator().manual_seed(0)
    return Batch(torch.rand(N, 1, 2, 2, generator=g), torch.arange(N) % CLASSES)


def knowledge() -> DatasetKnowledge:
    def fit(samples: Batch, /, **options: Any) -> Any:
        raise AssertionError("nobody trains here")

    own = Batch(torch.full((4, 1, 2, 2), 0.5), torch.tensor([0, 1, 2, 0]))
    return DatasetKnowledge(CLASSES, own, (fit,), torch.Generator().manual_seed(1))


def poisoned_by(budget: DatasetBudget, x: torch.Tensor, y: torch.Tensor, base: Batch | None = None) -> Any:
    return DatasetAttack(budget, lambda clean, known: Poison(Batch(x, y), base))(clean_set(), knowledge())


def test_without_a_function_the_set_stays_clean() -> None:
    clean = clean_set()
    found = DatasetAttack(DatasetBudget())(clean, knowledge())
    assert found.samples is clean
    assert not found.poisoned.any()


def test_content_stays_in_the_ball_and_labels_stay_right() -> None:
    clean = clean_set()
    x, y = clean.x.clone(), clean.y.clone()
    x[2] += 9
    x[5] = float("nan")
    y[7] = (y[7] + 1) % CLASSES
    found = poisoned_by(DatasetBudget(0.5, content=LpBall("linf", 0.1)), x, y)
    assert (found.samples.x - clean.x).abs().max() <= 0.1 + 1e-6
    assert found.samples.x.max() <= 1
    assert torch.equal(found.samples.y, clean.y)
    assert found.poisoned.nonzero().flatten().tolist() == [2]
    labelled = poisoned_by(DatasetBudget(0.5, content="none", labels=True), x, y)
    assert torch.equal(labelled.samples.x, clean.x)
    assert labelled.poisoned.nonzero().flatten().tolist() == [7]


def test_any_content_is_held_to_the_range_of_the_data() -> None:
    clean = clean_set()
    x = clean.x.clone()
    x[0, 0, 0] = torch.tensor([-3.0, float("inf")])
    x[1] = float("nan")
    found = poisoned_by(DatasetBudget(0.2, content="any"), x, clean.y)
    assert found.samples.x[:2].min() >= 0
    assert found.samples.x[:2].max() <= 1
    assert torch.equal(found.samples.x[2:], clean.x[2:])
    assert found.poisoned.tolist() == [True] * 2 + [False] * 8


def test_what_is_inserted_is_held_to_its_base() -> None:
    clean, base = clean_set(), Batch(torch.full((2, 1, 2, 2), 0.5), torch.tensor([1, 2]))
    x = torch.cat([clean.x, torch.ones(2, 1, 2, 2)])
    y = torch.cat([clean.y, torch.tensor([0, 0])])
    found = poisoned_by(DatasetBudget(0.2, insert=True, content=LpBall("linf", 0.25)), x, y, base)
    assert torch.equal(found.samples.x[N:], torch.full((2, 1, 2, 2), 0.75))
    assert found.samples.y[N:].tolist() == [1, 2]
    assert found.poisoned.tolist() == [False] * N + [True] * 2
    free = poisoned_by(DatasetBudget(0.2, insert=True, content="any", labels=True), x, y)
    assert free.samples.y[N:].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :, :1], y), r"wanted \[10, 1, 2, 2\] of torch.float32"),
        (lambda x, y: (x.double(), y), "torch.float64"),
        (lambda x, y: (x[:8], y[:8]), r"\[8, 1, 2, 2\]"),
        (lambda x, y: (x, y[:8]), "as many everywhere"),
        (lambda x, y: (x, y.float()), "labels"),
        (lambda x, y: (x, y + 1), "the label 3, wanted 0 to 2"),
        (lambda x, y: (torch.cat([x, x[:1]]), torch.cat([y, y[:1]])), "inserted 1 samples, wanted none"),
        (lambda x, y: (1 - x, y), "poisoned 10 samples .* wanted at most 2"),
    ],
)
def test_what_cannot_be_projected_is_refused(change: Any, message: str) -> None:
    clean = clean_set()
    with pytest.raises(Exception, match=message) as caught:
        poisoned_by(DatasetBudget(0.2, content="any", labels=True), *change(clean.x.clone(), clean.y.clone()))
    assert isinstance(caught.value, ValueError)


def test_an_inserted_sample_needs_a_base_where_the_budget_bounds_it() -> None:
    clean = clean_set()
    x, y = torch.cat([clean.x, clean.x[:1]]), torch.cat([clean.y, clean.y[:1]])
    for budget in (DatasetBudget(0.2, insert=True, labels=True), DatasetBudget(0.2, insert=True, content="any")):
        with pytest.raises(AttackError, match="without their base"):
            poisoned_by(budget, x, y)
    with pytest.raises(AttackError, match="base: got"):
        poisoned_by(DatasetBudget(0.2, insert=True), x, y, Batch(clean.x[:2], clean.y[:2]))


def test_the_places_that_a_budget_draws() -> None:
    budget = DatasetBudget(0.25)
    places = budget.draw(N, torch.Generator().manual_seed(3))
    assert len(places) == budget.max_poisoned(N) == 2
    assert places.tolist() == sorted(set(places.tolist()))
    with pytest.raises(AttackError, match="poison_fraction"):
        DatasetBudget(1.5)


def test_what_an_attack_writes_into_the_clean_set_is_poison() -> None:
    clean = clean_set()
    before = clean.x.clone()

    def in_place(samples: Batch, known: DatasetKnowledge) -> Poison:
        samples.x[:2] = 1 - samples.x[:2]
        return Poison(samples)

    found = DatasetAttack(DatasetBudget(0.2, content="any"), in_place)(clean, knowledge())
    assert torch.equal(clean.x, before)
    assert found.poisoned.nonzero().flatten().tolist() == [0, 1]


def test_a_base_is_a_sample_that_there_could_be() -> None:
    clean = clean_set()
    x, y = torch.cat([clean.x, clean.x[:1]]), torch.cat([clean.y, clean.y[:1]])
    budget = DatasetBudget(0.2, insert=True, content="none")
    for base in (Batch(clean.x[:1] + float("nan"), clean.y[:1]), Batch(clean.x[:1], torch.tensor([7]))):
        with pytest.raises(AttackError, match="base: got NaN, or labels from"):
            poisoned_by(budget, x, y, base)
    far = poisoned_by(budget, x, y, Batch(clean.x[:1] + 1e6, clean.y[:1]))
    assert far.samples.x[N:].max() <= 1


def test_a_share_that_is_no_sample_is_told() -> None:
    with pytest.raises(AttackError, match="which is no sample of 10"):
        poisoned_by(DatasetBudget(0.05), clean_set().x, clean_set().y)
