"""Collision, polytope and bullseye: features, budgets, targets hit in transfer learning, messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster.attacks import DATASET_ATTACKS, DatasetAttack, DatasetKnowledge, PolytopeSettings, SurrogateSettings
from taster.attacks.targeted.convex_combination import convex_coefficients
from taster.attacks.targeted.polytope import surround
from taster.attacks.targeted.surrogate_features import SurrogateFeatures, train_surrogates
from taster.attacks.targeted.targets import TargetSettings, draw_targets
from taster.core.batch import Batch
from taster.core.training_settings import TrainingSettings
from taster.errors import AttackError, ModelError, SettingError
from taster.experiments.recipes.registry import find_factory
from taster.offline import EstimatorTraining, NetTraining
from taster.perturbations.pgd import LpBall
from taster.utils.seeds import generator

CRAFTED = ("feature_collision", "convex_polytope", "bullseye_polytope")


def blobs(count: int, seed: int) -> Batch:
    """Three classes around corners of a box of twelve values."""
    draws = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    centers = torch.full((3, 12), 0.35)
    for label in range(3):
        centers[label, 4 * label : 4 * label + 4] = 0.65
    return Batch((centers[y] + 0.1 * torch.randn(count, 12, generator=draws)).clamp(0, 1), y)


CLEAN, OWN = blobs(60, 0), blobs(30, 1)


@cache
def pretrained(seed: int) -> dict[str, Tensor]:
    """Weights after training on samples of the same classes."""
    net, samples = untrained(seed), blobs(90, 2)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        cross_entropy(net(samples.x), samples.y).backward()
        optimizer.step()
    return net.state_dict()


def make_net(seed: int = 0) -> nn.Module:
    net = untrained(seed)
    net.load_state_dict(pretrained(seed))
    return net


def untrained(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 3))


TRANSFER = NetTraining(make_net, TrainingSettings(epochs=40, batch_size=20, learning_rate=0.2), "transfer", seed=5)
BY_HEART = replace(TRANSFER, settings=TrainingSettings(epochs=300, batch_size=60, learning_rate=1.0, weight_decay=0.0))


def knowledge(seed: int = 0, *fits: Any) -> DatasetKnowledge:
    return DatasetKnowledge(3, OWN, fits or (TRANSFER,), generator(seed, "attack"))


def make(name: str, **settings: Any) -> DatasetAttack:
    """Settings by key, as a recipe has them."""
    factory = find_factory("attack", name)
    made = factory.make({}, {"poison_fraction": 0.1, "epsilon": 0.35, **settings})
    assert isinstance(made, DatasetAttack)
    return made


def changed(attack: DatasetAttack, known: DatasetKnowledge) -> tuple[Batch, Tensor]:
    found = attack(CLEAN, known)
    return found.samples, found.poisoned


@pytest.mark.effect
@pytest.mark.parametrize(
    ("name", "settings", "hits"),
    [
        ("random_bases", {}, range(1)),
        ("feature_collision", {"similarity": 1e-4}, range(3, 5)),
        ("convex_polytope", {"steps": 100, "step_size": 0.02}, range(1, 5)),
        ("bullseye_polytope", {"steps": 200, "step_size": 0.01}, range(1, 5)),
    ],
)
def test_targets_are_hit_in_transfer_learning_where_noise_hits_none(
    name: str, settings: dict[str, Any], hits: range
) -> None:
    found = 0
    for seed in range(4):
        known = knowledge(seed)
        attack = make(name, epsilon=0.5, **settings)
        target = attack.target(known)  # type: ignore[misc]
        view = BY_HEART(attack(CLEAN, known).samples)
        found += int((view.outputs(target.x).argmax(1) == target.y).sum())
    assert found in hits


@pytest.mark.parametrize("name", [*CRAFTED, "random_bases"])
def test_the_same_samples_of_the_wanted_class_are_changed_within_the_budget(name: str) -> None:
    known = knowledge(3)
    wanted = draw_targets(TargetSettings(), known).wanted_class
    samples, poisoned = changed(make(name, **({} if name == "random_bases" else {"steps": 40})), known)
    places = poisoned.nonzero().flatten()
    # Those that no convex combination has a use for stay as they are.
    assert 1 <= len(places) <= 6 if name == "convex_polytope" else len(places) == 6
    assert (CLEAN.y[places] == wanted).all()
    assert torch.equal(samples.y, CLEAN.y)
    assert float((samples.x - CLEAN.x).abs().max()) <= 0.35 + 1e-6
    assert set(places.tolist()) <= set(changed(make("random_bases"), knowledge(3))[1].nonzero().flatten().tolist())


@pytest.mark.parametrize("name", [*CRAFTED, "random_bases"])
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    few = {} if name == "random_bases" else {"steps": 20}
    first, again = (changed(make(name, targets=2, **few), knowledge(4))[0].x for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, changed(make(name, targets=2, **few), knowledge(5))[0].x)


@pytest.mark.parametrize("name", CRAFTED)
def test_features_come_nearer_to_the_targets(name: str) -> None:
    known = knowledge(1)
    target = draw_targets(TargetSettings(), known)
    more = {"similarity": 1e-4} if name == "feature_collision" else {"steps": 60}
    samples, _ = changed(make(name, epsilon=0.5, **more), known)
    poisoned = changed(make("random_bases"), known)[1]
    view = TRANSFER(CLEAN)
    goal = view.features(target.x)[0]

    def distance(x: Tensor) -> float:
        points = view.features(x[poisoned])[0].detach()
        if name == "feature_collision":
            return float((points - goal).square().sum(1).mean())
        c = convex_coefficients(points[None], goal).float() if name == "convex_polytope" else torch.full((1, 6), 1 / 6)
        return float((c @ points - goal).square().sum())

    assert distance(samples.x) < 0.2 * distance(CLEAN.x)


def test_collision_without_epsilon_is_bound_by_its_penalty_alone() -> None:
    known = knowledge(2)
    far, near = (
        (changed(find_factory("attack", "feature_collision").make({}, settings), known)[0].x - CLEAN.x).square().sum()
        for settings in ({"poison_fraction": 0.1, "similarity": weight} for weight in (0.0, 100.0))
    )
    assert 0 < float(near) < 0.1 * float(far)


def test_a_watermark_begins_between_base_and_target() -> None:
    known = knowledge(2)
    target = draw_targets(TargetSettings(), known).x
    settings = {"epsilon": 1.0, "opacity": 0.4, "similarity": 1e9}
    samples, poisoned = changed(make("feature_collision", **settings), known)
    torch.testing.assert_close(samples.x[poisoned], 0.4 * target + 0.6 * CLEAN.x[poisoned], rtol=0, atol=1e-3)


def test_of_several_targets_poisons_take_turns() -> None:
    known = knowledge(2)
    targets = draw_targets(TargetSettings(targets=2), known).x
    settings = {"epsilon": 1.0, "opacity": 1.0, "similarity": 1e9, "targets": 2}
    samples, poisoned = changed(make("feature_collision", **settings), known)
    torch.testing.assert_close(samples.x[poisoned], targets.repeat(3, 1), rtol=0, atol=1e-3)


def test_staying_at_home_is_told_by_the_neighbours() -> None:
    known = knowledge(1)
    view = TRANSFER(CLEAN)
    moved = []
    for stay in (0.0, 10.0):
        samples, poisoned = changed(make("bullseye_polytope", stay=stay), known)
        home, found = (view.features(x[poisoned])[0].detach() for x in (CLEAN.x, samples.x))
        moved.append(float((found - home).square().sum()))
    assert moved[1] < 0.2 * moved[0]


def test_bullseye_meets_the_mean_of_several_targets() -> None:
    known = knowledge(6)
    goal = TRANSFER(CLEAN).features(draw_targets(TargetSettings(targets=3), known).x)[0].mean(0)
    samples, poisoned = changed(make("bullseye_polytope", targets=3, epsilon=0.5), known)
    view = TRANSFER(CLEAN)
    before, after = (float((view.features(x[poisoned])[0].mean(0) - goal).square().sum()) for x in (CLEAN.x, samples.x))
    assert after < 0.05 * before


def test_the_loss_is_that_of_the_paper_and_the_best_step_is_taken() -> None:
    views = (TRANSFER(CLEAN), NetTraining(lambda seed: make_net(9), TRANSFER.settings, "transfer")(CLEAN))
    features = SurrogateFeatures(views, (None, "0"))
    goals = [goal[:2] for goal in features.fixed(OWN.x)]
    assert len(goals) == 4
    bases, ball = CLEAN.x[:5], LpBall("linf", 0.3)
    seen: list[float] = []

    def combine(points: Tensor, goal: Tensor, before: Tensor | None) -> Tensor:
        return torch.full((2, 5), 0.2)

    class Recorded(SurrogateFeatures):
        def __call__(self, x: Tensor) -> list[Tensor]:
            found = super().__call__(x)
            if x.requires_grad:
                seen.append(
                    sum(
                        float(((f.mean(0) - g).square().sum(1) / g.square().sum(1)).mean()) / 2
                        for f, g in zip((f.detach() for f in found), goals, strict=True)
                    )
                    / 4
                )
            return found

    settings = PolytopeSettings(steps=15, step_size=0.2, tolerance=0.0)
    found = surround(Recorded(views, (None, "0")), goals, bases, ball, combine, settings)
    assert len(seen) == 16
    points = features.fixed(found)
    reached = [
        ((f.mean(0) - g).square().sum(1) / g.square().sum(1)).mean() / 2 for f, g in zip(points, goals, strict=True)
    ]
    assert float(sum(reached)) / 4 == pytest.approx(min(seen), rel=1e-5)


def test_it_ends_when_nothing_is_gained() -> None:
    calls = 0

    def combine(points: Tensor, goal: Tensor, before: Tensor | None) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.full((1, 3), 1 / 3)

    features = SurrogateFeatures((TRANSFER(CLEAN),))
    bases = CLEAN.x[:3]
    goals = [features.fixed(bases)[0].mean(0, keepdim=True)]
    surround(features, goals, bases, LpBall("linf", 0.1), combine, PolytopeSettings(steps=500))
    assert calls == 21


def test_nets_of_an_attacker_differ_and_are_trained_as_he_supposes() -> None:
    other = NetTraining(make_net, TrainingSettings(epochs=3, batch_size=20), seed=5)
    found = train_surrogates(SurrogateSettings(nets=2, layers=["0", "2"]), CLEAN, knowledge(0, TRANSFER, other), "mine")
    assert len(found.views) == 4
    assert len(found(CLEAN.x)) == 8
    params = [view.params["0.weight"] for view in found.views]
    assert torch.equal(params[0], make_net()[0].weight)  # features are frozen
    assert not torch.equal(params[2], params[3])
    assert torch.equal(params[2], other(CLEAN).params["0.weight"])


def test_random_labels_and_nothing() -> None:
    known = knowledge(3)
    samples, poisoned = changed(make("random_bases", perturbation="label_flip"), known)
    assert int(poisoned.sum()) == 6
    assert (samples.y[poisoned] != CLEAN.y[poisoned]).all()
    assert torch.equal(samples.x, CLEAN.x)
    attack = make("random_bases", perturbation="none")
    samples, poisoned = changed(attack, known)
    assert not poisoned.any()
    assert len(attack.target(known)) == 1  # type: ignore[misc]


@pytest.mark.parametrize("name", [*CRAFTED, "random_bases"])
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"poison_fraction": 0.5}, "poison_fraction: got 0.5, which is 30 samples of 60, wanted at most the 20"),
        ({"targets": 11}, "targets: got 11, wanted at most 10"),
        ({"poison_fraction": 0.001}, "which is no sample of 60"),
    ],
)
def test_what_there_is_too_little_of_is_told(name: str, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(AttackError, match=told):
        make(name, **settings)(CLEAN, knowledge())


@pytest.mark.parametrize("name", CRAFTED)
def test_estimators_and_layers_that_there_are_not_are_told(name: str) -> None:
    estimator = EstimatorTraining(lambda: None, 3)
    with pytest.raises(AttackError, match=f"{name}: got the training of an estimator"):
        make(name)(CLEAN, knowledge(0, estimator))
    with pytest.raises(ModelError, match="layer: got 'nine'"):
        make(name, layers=["nine"])(CLEAN, knowledge())


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        (DATASET_ATTACKS["feature_collision"], {"opacity": 1.5}),
        (DATASET_ATTACKS["convex_polytope"], {"gap": 0.0}),
        (DATASET_ATTACKS["random_bases"], {"epsilon": -1.0}),
    ],
)
def test_settings_out_of_bounds_are_told(function: Callable[..., Any], settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        function(**settings)
