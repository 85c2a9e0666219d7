"""Gradient matching: its loss against finite differences, budgets, restarts, ensembles, targets hit, messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.targeted.quarters import CLEAN, OWN, SCRATCH, knowledge, make_net
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from taster.attacks import DATASET_ATTACKS, DatasetAttack, DatasetKnowledge
from taster.attacks.surrogate import train_nets
from taster.attacks.targeted.bases import draw_bases, largest_bases
from taster.attacks.targeted.gradient_match import GradientMatch
from taster.attacks.targeted.targets import TargetSettings, draw_targets
from taster.core.batch import Batch
from taster.core.training_settings import TrainingSettings
from taster.core.view import View
from taster.derivatives import Derivatives, DiffMethod
from taster.errors import AttackError, SettingError
from taster.experiments.recipes.registry import find_factory
from taster.offline import EstimatorTraining, NetTraining
from taster.utils.seeds import generator

EXACT = Derivatives(DiffMethod("double_backward"))


def make(**settings: Any) -> DatasetAttack:
    """Settings by key, as a recipe has them."""
    given = {"poison_fraction": 0.1, "epsilon": 0.2, "steps": 6, "restarts": 2, **settings}
    made = find_factory("attack", "gradient_matching").make({"derivatives": EXACT}, given)
    assert isinstance(made, DatasetAttack)
    return made


def crafted(known: DatasetKnowledge, **settings: Any) -> tuple[Batch, Tensor]:
    found = make(**settings)(CLEAN, known)
    return found.samples, found.poisoned


def exact_view(seed: int) -> View:
    net = make_net(seed).double()
    training = NetTraining(lambda _: net, SCRATCH.settings)
    return training(Batch(CLEAN.x.double(), CLEAN.y))


def by_hand(view: View, wanted: Batch, x: Tensor, y: Tensor) -> float:
    """1 − cos of the two gradients, each by a plain backward pass."""
    flat = []
    for batch in (wanted, Batch(x, y)):
        leaves = {name: value.clone().requires_grad_() for name, value in view.trainable.items()}
        loss = cross_entropy(view.forward(batch.x, params=leaves), batch.y)
        flat.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(leaves.values()))]))
    return 1 - float(cosine_similarity(flat[0], flat[1], 0))


def test_the_loss_is_one_minus_a_cosine_and_its_mean_over_nets() -> None:
    views = [exact_view(1), exact_view(2)]
    wanted, x, y = Batch(OWN.x[:2].double(), torch.tensor([1, 1])), CLEAN.x[:5].double(), CLEAN.y[:5]
    found = GradientMatch(views, wanted, EXACT).loss(x, y)
    assert float(found) == pytest.approx(sum(by_hand(view, wanted, x, y) for view in views) / 2, rel=1e-9)
    assert float(GradientMatch(views, wanted, EXACT).loss(wanted.x, wanted.y)) == pytest.approx(0, abs=1e-9)


def test_its_gradient_is_that_of_central_differences_in_float64() -> None:
    views = [exact_view(1), exact_view(2)]
    match = GradientMatch(views, Batch(OWN.x[:2].double(), torch.tensor([1, 1])), EXACT)
    x, y, step = CLEAN.x[:3].double(), CLEAN.y[:3], 1e-5
    found = match.ascent(x, y)
    for place in [(0, 0, 1, 1), (1, 0, 4, 2), (2, 0, 0, 5), (2, 0, 3, 3)]:
        there, back = x.clone(), x.clone()
        there[place] += step
        back[place] -= step
        slope = (float(match.loss(there, y)) - float(match.loss(back, y))) / (2 * step)
        assert -float(found[place]) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_norms_are_those_of_each_samples_own_gradient() -> None:
    view = exact_view(1)
    samples = Batch(CLEAN.x[:4].double(), CLEAN.y[:4])
    match = GradientMatch([view], Batch(OWN.x[:1].double(), torch.tensor([1])), EXACT)
    for norm, x, y in zip(match.sample_norms(samples), samples.x, samples.y, strict=True):
        leaves = {name: value.clone().requires_grad_() for name, value in view.trainable.items()}
        slopes = torch.autograd.grad(cross_entropy(view.forward(x[None], params=leaves), y[None]), [*leaves.values()])
        assert float(norm) == pytest.approx(float(sum(g.square().sum() for g in slopes)) ** 0.5)


@pytest.mark.parametrize(
    "settings",
    [{}, {"shift": 1.5, "flip": True}, {"nets": 2, "targets": 2}, {"retrain": True}, {"bases": "largest_gradient"}],
    ids=str,
)
def test_it_stays_within_the_budget_and_the_same_seed_gives_the_same_bits(settings: dict[str, Any]) -> None:
    samples, poisoned = crafted(knowledge(3), **settings)
    again, _ = crafted(knowledge(3), **settings)
    assert torch.equal(samples.x, again.x)
    assert int(poisoned.sum()) == 6
    assert torch.equal(samples.y, CLEAN.y)
    assert (CLEAN.y[poisoned] == draw_targets(TargetSettings(), knowledge(3)).wanted_class).all()
    assert 0.05 < float((samples.x - CLEAN.x).abs().max()) <= 0.2 + 1e-6
    assert 0 <= float(samples.x.min()) <= float(samples.x.max()) <= 1


def test_drawn_bases_are_those_of_other_attacks_and_the_largest_are_the_largest() -> None:
    known = knowledge(3)
    targets = draw_targets(TargetSettings(), known)
    attack = make()
    assert torch.equal(
        attack(CLEAN, known).poisoned.nonzero().flatten(), draw_bases(CLEAN, targets, attack.budget, known)
    )
    size = CLEAN.x.flatten(1).sum(1)
    places = largest_bases(CLEAN, 2, 4, lambda samples: samples.x.flatten(1).sum(1))
    mine = (CLEAN.y == 2).nonzero().flatten().tolist()
    assert places.tolist() == sorted(sorted(mine, key=lambda i: -float(size[i]))[:4])


def test_more_steps_and_restarts_come_nearer() -> None:
    known = knowledge(1)
    match = GradientMatch(train_nets(1, CLEAN, known, "mine"), draw_targets(TargetSettings(), known).wanted, EXACT)

    def reached(**settings: Any) -> float:
        samples, poisoned = crafted(known, **settings)
        return float(match.loss(samples.x[poisoned], samples.y[poisoned]))

    poisoned = crafted(known)[1]
    clean = float(match.loss(CLEAN.x[poisoned], CLEAN.y[poisoned]))
    one, many, long = reached(restarts=1), reached(restarts=4), reached(restarts=1, steps=60)
    assert many <= one < clean
    assert long < one
    assert long < 0.8 * clean


def test_nets_that_are_trained_anew_make_other_poison() -> None:
    kept, anew = (crafted(knowledge(2), restarts=2, retrain=retrain)[0].x for retrain in (False, True))
    once = crafted(knowledge(2), restarts=1, retrain=True)[0].x
    assert not torch.equal(kept, anew)
    assert torch.equal(once, crafted(knowledge(2), restarts=1)[0].x)


def test_the_trainings_own_augmentation_is_the_default() -> None:
    augmented = NetTraining(make_net, TrainingSettings(epochs=2, batch_size=20, crop=1, flip=True), seed=5)
    known = [knowledge(2, augmented) for _ in range(3)]
    own = crafted(known[0])[0].x
    assert torch.equal(own, crafted(known[1], shift=1.0, flip=True)[0].x)
    assert not torch.equal(own, crafted(known[2], shift=0.0, flip=False)[0].x)


def test_nets_differ_between_rounds_and_the_first_is_the_trainings_own() -> None:
    first, second = train_nets(2, CLEAN, knowledge(), "mine"), train_nets(2, CLEAN, knowledge(), "mine", first=2)
    weights = [view.params["0.weight"] for view in (*first, *second)]
    assert torch.equal(weights[0], SCRATCH(CLEAN).params["0.weight"])
    assert not any(torch.equal(weights[i], weights[j]) for i in range(4) for j in range(i))


@pytest.mark.effect
def test_targets_are_hit_from_scratch_where_noise_hits_fewer() -> None:
    victim = NetTraining(make_net, TrainingSettings(epochs=30, batch_size=20, learning_rate=0.1), seed=77)
    hits = dict.fromkeys(("gradient_matching", "random_bases"), 0)
    for seed in range(4):
        for name in hits:
            known = knowledge(seed)
            more = {"steps": 80, "restarts": 1} if name == "gradient_matching" else {}
            given = {"poison_fraction": 0.2, "epsilon": 0.3, **more}
            attack = find_factory("attack", name).make({"derivatives": EXACT}, given)
            assert isinstance(attack, DatasetAttack)
            target = attack.target(known)  # type: ignore[misc]
            view = victim(attack(CLEAN, known).samples)
            hits[name] += int((view.outputs(target.x).argmax(1) == target.y).sum())
    assert hits["random_bases"] == 0
    assert hits["gradient_matching"] >= 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"poison_fraction": 0.5}, "poison_fraction: got 0.5, which is 30 samples of 60, wanted at most the 20"),
        ({"targets": 11}, "targets: got 11, wanted at most 10"),
    ],
)
def test_what_there_is_too_little_of_is_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(AttackError, match=told):
        make(**settings)(CLEAN, knowledge())


def test_estimators_and_samples_that_are_no_images_are_told() -> None:
    with pytest.raises(AttackError, match="gradient_matching: got the training of an estimator"):
        make()(CLEAN, knowledge(0, EstimatorTraining(lambda: None, 3)))

    def flat_net(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(36, 3)

    known = DatasetKnowledge(
        3, Batch(OWN.x.flatten(1), OWN.y), (NetTraining(flat_net, SCRATCH.settings),), generator(0, "attack")
    )
    flat = Batch(CLEAN.x.flatten(1), CLEAN.y)
    assert int(make()(flat, known).poisoned.sum()) == 6
    with pytest.raises(AttackError, match="shift, flip: got samples of shape"):
        make(shift=1.0)(flat, known)


@pytest.mark.parametrize("settings", [{"restarts": 0}, {"step_size": 0.0}, {"bases": "best"}, {"shift": -1.0}], ids=str)
def test_settings_out_of_bounds_are_told(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        DATASET_ATTACKS["gradient_matching"](**settings)
