"""Attacks by few changes of single values: tokens and columns, their control, and what the harness holds them to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.conftest import draw_easy, easy_batch, easy_learner, make_attack
from tests.attacks.token_problems import WORDS, draw_texts, text_learner, texts
from tests.conftest import full_state, same_state

from taster import Batch, Learner, Phase
from taster.attacks import Budget, DatasetAttack, DatasetBudget, DatasetKnowledge, OnlineAttack, Poison
from taster.attacks.edit_attack import greedy_edits
from taster.attacks.online_attack import poison_mask
from taster.errors import AttackError
from taster.perturbations.edits import Edits
from taster.perturbations.pgd import LpBall
from taster.scores.influence import FirstOrderInfluence


def of_texts(name: str, **settings: Any) -> OnlineAttack:
    made = make_attack(name, given={"draw_validation": draw_texts}, **settings)
    return made.within(0, WORDS - 1)


def of_rows(name: str, **settings: Any) -> OnlineAttack:
    return make_attack(name, given={"draw_validation": draw_easy}, **settings)


def edits_of(found: Batch, clean: Batch) -> list[int]:
    return (found.x != clean.x).flatten(1).sum(1).tolist()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("name", "made", "learner", "clean"),
    [
        ("token_substitution", of_texts, text_learner, texts),
        ("random_edits", of_texts, text_learner, texts),
        ("column_changes", of_rows, easy_learner, easy_batch),
        ("random_edits", of_rows, easy_learner, easy_batch),
    ],
)
def test_pure_within_the_budget_and_the_same_for_the_same_seed(
    name: str, made: Any, learner: Any, clean: Any, flip: bool
) -> None:
    victim: Learner = learner()
    before, batch = full_state(victim), clean(20, seed=70)
    attack = made(name, poison_fraction=0.5, edits=2, flip=flip)
    found = [attack.poison(batch, victim.view(), phase) for phase in (Phase.ACCUMULATE, Phase.TRIGGER)]
    assert same_state(full_state(victim), before)
    again = made(name, poison_fraction=0.5, edits=2, flip=flip)
    for poisoned in found:
        assert torch.equal(poisoned.x, again.poison(batch, victim.view(), Phase.ACCUMULATE).x)
        assert poisoned.x.dtype == batch.x.dtype
        assert max(edits_of(poisoned, batch)) == 2
        assert int(poison_mask(poisoned, batch).sum()) <= 10
        assert int((poisoned.y != batch.y).sum()) == (10 if flip else 0)
        low, high = (0, WORDS - 1) if made is of_texts else (0, 1)
        assert float(poisoned.x.min()) >= low
        assert float(poisoned.x.max()) <= high


@pytest.mark.parametrize(
    ("name", "made", "draw", "learner", "clean"),
    [
        ("token_substitution", of_texts, draw_texts, text_learner, texts),
        ("column_changes", of_rows, draw_easy, easy_learner, easy_batch),
    ],
)
def test_poison_is_worth_more_than_random_edits_and_than_none(
    name: str, made: Any, draw: Any, learner: Any, clean: Any
) -> None:
    view, batch, worth = learner().view(), clean(40, seed=70), FirstOrderInfluence(draw(200))
    aimed = made(name, edits=2).poison(batch, view, Phase.ACCUMULATE)
    random = made("random_edits", edits=2).poison(batch, view, Phase.ACCUMULATE)
    found, control, none = (worth(some, view) for some in (aimed, random, batch))
    assert float(found.mean()) > max(float(control.mean()), float(none.mean()))
    assert float((found > none).double().mean()) > 0.9
    own = FirstOrderInfluence(draw(100))
    assert bool((own(aimed, view) >= own(batch, view) - 1e-6).all()), "no edit is made that is worth less"


def test_more_steps_on_substituted_texts_cost_accuracy_that_steps_on_random_ones_do_not() -> None:
    left = {}
    for name in ("random_edits", "token_substitution"):
        learner, attack = text_learner(), of_texts(name, edits=3)
        for i in range(20):
            learner.step(attack.poison(texts(40, seed=200 + i), learner.view(), Phase.ACCUMULATE))
        test = texts(500, seed=99)
        left[name] = learner.view().accuracy(test.x, test.y)
    assert left["token_substitution"] < left["random_edits"] - 10


def test_greedy_edits_find_the_best_of_all_where_worth_adds_up() -> None:
    g = torch.Generator().manual_seed(0)
    table, x = torch.randn(4, 5, 3, generator=g), torch.zeros(4, 5).long()
    options = torch.tensor([[0, 1, 2]])

    def worth(some: Batch) -> torch.Tensor:
        return table.gather(2, some.x[..., None])[..., 0].sum(1)

    def gains(some: Batch) -> torch.Tensor:
        return table - table.gather(2, some.x[..., None])

    found = greedy_edits(Batch(x, torch.zeros(4).long()), 2, options, gains, worth, tries=1)
    best = (table.amax(2) - table[..., 0]).topk(2).values.sum(1)
    assert torch.allclose(worth(found) - table[..., 0].sum(1), best)
    assert edits_of(found, Batch(x, x[:, 0])) == [2] * 4


def test_nothing_is_changed_where_nothing_is_worth_more() -> None:
    x = torch.zeros(3, 4)
    found = greedy_edits(
        Batch(x, torch.zeros(3).long()),
        2,
        torch.tensor([[0.0, 1.0]]),
        lambda some: torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0)),
        lambda some: -some.x.sum(1),
        tries=3,
    )
    assert torch.equal(found.x, x)


def test_the_harness_takes_back_what_is_over_the_edits() -> None:
    clean = texts(6, seed=3)
    budget = Budget(LpBall("linf", 0.0), 0.5, edits=Edits(1)).within(0, WORDS - 1)
    found = budget.enforce(Batch((clean.x + 1) * 100, 1 - clean.y), clean)
    assert edits_of(found, clean) == [1, 1, 1, 0, 0, 0]
    assert found.x[:3].flatten().max() == WORDS - 1
    assert torch.equal(found.y, clean.y)


@pytest.mark.parametrize("name", ["random_noise", "ood_images"])
def test_attacks_with_a_radius_refuse_token_ids_before_anything_is_done(name: str) -> None:
    attack = make_attack(name, **({"source": "digits"} if name == "ood_images" else {}))
    with pytest.raises(AttackError, match="no distance that epsilon could bound"):
        attack.poison(texts(8), text_learner().view(), Phase.ACCUMULATE)
    with pytest.raises(AttackError, match="no distance"):
        attack.check(texts(8))


def test_label_flips_leave_ids_as_they_are() -> None:
    clean = texts(8)
    found = of_texts("label_flip").poison(clean, text_learner().view(), Phase.ACCUMULATE)
    assert torch.equal(found.x, clean.x)
    assert found.x.dtype == torch.int64
    assert bool((found.y == 1 - clean.y).all())


@pytest.mark.parametrize(
    ("name", "learner", "batch"),
    [("token_substitution", easy_learner, easy_batch(4)), ("column_changes", text_learner, texts(4))],
)
def test_the_wrong_kind_of_samples_is_told_the_right_attack(name: str, learner: Any, batch: Batch) -> None:
    with pytest.raises(AttackError, match=r"column_changes is for rows|token_substitution is for"):
        make_attack(name, given={"draw_validation": draw_texts}).poison(batch, learner().view(), Phase.ACCUMULATE)


def test_attacks_on_sets_of_token_ids_may_change_labels_alone() -> None:
    clean = texts(10)
    knowledge = DatasetKnowledge(2, texts(10, seed=1), (), torch.Generator(), 0.0, WORDS - 1.0)

    def flipped(clean: Batch, knowledge: DatasetKnowledge) -> Any:
        return Poison(Batch(clean.x, torch.cat([1 - clean.y[:2], clean.y[2:]])))

    found = DatasetAttack(DatasetBudget(0.2, content="none", labels=True), flipped)(clean, knowledge)
    assert torch.equal(found.samples.x, clean.x)
    assert found.poisoned.tolist() == [True] * 2 + [False] * 8
    still = DatasetAttack(DatasetBudget(0.2, content=LpBall("linf", 0.0), labels=True), flipped)(clean, knowledge)
    assert still.samples.x.dtype == torch.int64
    for content in ("any", LpBall("linf", 0.1)):
        with pytest.raises(AttackError, match="no distance"):
            DatasetAttack(DatasetBudget(0.2, content=content, labels=True), flipped)(clean, knowledge)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "made", "learner", "clean"),
    [("token_substitution", of_texts, text_learner, texts), ("column_changes", of_rows, easy_learner, easy_batch)],
)
def test_a_batch_too_small_for_the_share_stays_clean(name: str, made: Any, learner: Any, clean: Any) -> None:
    """As the last one of a training set that is poisoned batch by batch."""
    batch = clean(4, seed=70)
    found = made(name, poison_fraction=0.1, edits=2, flip=True).poison(batch, learner().view(), Phase.ACCUMULATE)
    assert torch.equal(found.x, batch.x)
    assert torch.equal(found.y, batch.y)
