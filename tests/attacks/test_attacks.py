"""One row for every attack: pure towards the learner, within its budget, the same for the same seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner

from taster import Batch, Learner, Phase, SnapshotBuffer, View
from taster.attacks import ATTACKS, OnlineAttack, accumulative
from taster.attacks.online_attack import poison_mask
from taster.derivatives import inner, normalized
from taster.derivatives.autodiff import DoubleBackward, gradient
from taster.errors import AttackError
from taster.scores.memorization_discrepancy import MemorizationDiscrepancy

YANG = ("direct_gradient", "generative")
COMMON = {"pgd_steps": 3, "epsilon": 0.1, "validation_size": 10}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "noise": ("random_noise", {"epsilon": 0.1}),
    "foreign": ("ood_images", {"source": "digits", "poison_fraction": 0.5}),
    "labels": ("label_flip", {"poison_fraction": 0.5}),
    "noise l2": ("random_noise", {"epsilon": 0.1, "norm": "l2", "poison_fraction": 0.5}),
    "vanilla": ("vanilla_trigger", COMMON),
    "vanilla scaled": ("vanilla_trigger", {**COMMON, "loss_scale": 20.0}),
    "vanilla cosine": ("vanilla_trigger", {**COMMON, "normalize_poisoned": True}),
    "vanilla train": ("vanilla_trigger", {**COMMON, "batch_norm": "train"}),
    "accumulative": ("accumulative", COMMON),
    "clean": ("accumulative", {**COMMON, "trigger_batch": "clean"}),
    "recrafted": ("accumulative", {**COMMON, "trigger_batch": "recrafted", "resample_validation": True}),
    "optimized": ("accumulative", {**COMMON, "trigger_batch": "optimized"}),
    "optimized l2 part": (
        "accumulative",
        {**COMMON, "trigger_batch": "optimized", "norm": "l2", "poison_fraction": 0.5},
    ),
    "unnormalized": ("accumulative", {**COMMON, "normalize": "none"}),
    "one class": ("accumulative", {**COMMON, "victim_class": 1, "trigger_batch": "recrafted"}),
    "one class's trigger": ("vanilla_trigger", {**COMMON, "victim_class": 1}),
    "greedy": ("vanilla_trigger", {**COMMON, "greedy": True}),
    "mim": ("vanilla_trigger", {**COMMON, "pgd_momentum": 1.0}),
    "fgsm": ("vanilla_trigger", {**COMMON, "pgd_steps": 1, "step_size": 0.1}),
    "kl": ("accumulative", {**COMMON, "objective": "kl", "random_start": True, "poison_fraction": 0.5}),
    "margin": ("accumulative", {**COMMON, "objective": "margin"}),
    "evading": ("accumulative", {**COMMON, "evade_reference": "early", "evade_weight": 10.0}),
    "surrogate": ("accumulative", {**COMMON, "surrogate": "early", "trigger_batch": "recrafted"}),
    "surrogate trigger": ("vanilla_trigger", {**COMMON, "surrogate": 2}),
    "direct": ("direct_gradient", {"iterations": 3, "group_size": 10}),
    "direct differences": (
        "direct_gradient",
        {"gradient": "finite_differences", "iterations": 1, "group_size": 10, "epsilon": 0.1, "poison_fraction": 0.25},
    ),
    "direct first order": (
        "direct_gradient",
        {"gradient": "first_order", "iterations": 3, "group_size": 10, "epsilon": 0.1, "norm": "l2", "greedy": True},
    ),
    "direct from noise": (
        "direct_gradient",
        {
            "init": "uniform",
            "iterations": 2,
            "group_size": 10,
            "poison_fraction": 0.5,
            "target_class": 1,
            "greedy": True,
        },
    ),
    "generative": (
        "generative",
        {"iterations": 3, "group_size": 10, "pretraining_size": 10, "pretraining_epochs": 2, "hidden": [5, 5]},
    ),
    "generative unrolled": (
        "generative",
        {
            "policy": "unrolled",
            "iterations": 3,
            "group_size": 10,
            "pretraining_size": 10,
            "pretraining_epochs": 2,
            "epsilon": 0.1,
            "poison_fraction": 0.5,
            "greedy": True,
        },
    ),
    "phase, direct": (
        "accumulative",
        {**COMMON, "trigger_attack": "direct_gradient", "trigger_settings": {"iterations": 2, "group_size": 10}},
    ),
    "phase, generative": (
        "accumulative",
        {
            **COMMON,
            "trigger_attack": "generative",
            "trigger_batch": "recrafted",
            "trigger_settings": {"iterations": 2, "group_size": 10, "pretraining_size": 10, "pretraining_epochs": 1},
        },
    ),
    "global cosine": ("accumulative", {**COMMON, "normalize": "global", "normalize_poisoned": True}),
}


def trained() -> Learner:
    """With a past: a snapshot labelled "early", and the last three steps."""
    learner = tiny_learner(history=SnapshotBuffer(capacity=3))
    assert learner.history is not None
    learner.history.pin("early", learner.snapshot())
    for i in range(5):
        learner.step(tiny_batch(seed=i))
    return learner


def make(row: str, seed: int = 0) -> OnlineAttack:
    name, settings = ROWS[row]
    g = torch.Generator().manual_seed(seed)
    resources = {
        "trigger": tiny_batch(8, seed=50),
        "draw_validation": lambda n: tiny_batch(n, seed=60),
        "generator": g,
        "derivatives": None,
        "surrogates": None,
        "learning_rate": 0.1,
    }
    needs = {
        "none": [],
        "random_noise": ["generator"],
        "ood_images": ["generator"],
        "label_flip": ["generator"],
        "vanilla_trigger": ["draw_validation", "generator"],
        "direct_gradient": ["draw_validation", "generator", "learning_rate"],
        "generative": ["draw_validation", "generator", "learning_rate"],
        "accumulative": ["trigger", "draw_validation", "generator", "derivatives", "surrogates", "learning_rate"],
    }
    names = needs[name]
    return ATTACKS[name](*(resources[n] for n in names), **settings)


def campaign_of(row: str, learner: Learner, seed: int = 0) -> list[Batch]:
    """Two rounds and the strike."""
    campaign = make(row, seed)
    fed = [campaign.poison(tiny_batch(seed=70 + i), learner.view(), Phase.ACCUMULATE) for i in range(2)]
    return [*fed, campaign.poison(tiny_batch(8, seed=50), learner.view(), Phase.TRIGGER)]


@pytest.mark.parametrize("row", list(ROWS))
def test_every_attack_is_pure_repeatable_and_within_its_budget(row: str) -> None:
    learner = trained()
    before, randomness = full_state(learner), torch.get_rng_state()
    fed = campaign_of(row, learner)
    assert same_state(before, full_state(learner))
    assert torch.equal(torch.get_rng_state(), randomness)
    name, settings = ROWS[row]
    ratio, norm = settings.get("poison_fraction", 1.0), settings.get("norm", "linf")
    relabels = name in ("label_flip", *YANG)
    for batch, clean in zip(fed, [tiny_batch(seed=70), tiny_batch(seed=71), tiny_batch(8, seed=50)], strict=True):
        struck = batch is fed[2] and "trigger_attack" in settings
        assert relabels or struck or torch.equal(batch.y, clean.y)
        assert bool(((batch.x >= 0) & (batch.x <= 1)).all())
        change = (batch.x - clean.x).flatten(1)
        size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        radius = 1.0 if name == "ood_images" or struck else settings.get("epsilon", 1.0 if name in YANG else 0.1)
        assert bool((size <= radius + 1e-5).all())
        assert int(poison_mask(batch, clean).sum()) <= ratio * len(clean)
    expected = {"none": (0, 0), "vanilla_trigger": (0, 1), "clean": (1, 0), **dict.fromkeys(YANG, (0, 1))}
    stream, trigger = (1, 1) if settings.get("greedy") else expected.get(row if row == "clean" else name, (1, 1))
    assert bool(poison_mask(fed[0], tiny_batch(seed=70)).any()) == bool(stream)
    assert bool(poison_mask(fed[2], tiny_batch(8, seed=50)).any()) == bool(trigger)
    assert fed[2].loss_weight == settings.get("loss_scale", 1.0)
    again = campaign_of(row, learner)
    assert all(torch.equal(a.x, b.x) for a, b in zip(fed, again, strict=True))


def loss_of(view: View):
    return lambda params, x, y: view.loss(x, y, params=params)


def alignment(view: View, batch: Batch, direction: dict[str, torch.Tensor]) -> float:
    own = gradient(loss_of(view), view.trainable, batch)
    return float(inner(own, direction))


def test_the_vanilla_trigger_lowers_equation_6() -> None:
    learner = trained()
    view, clean = learner.view(), tiny_batch(8, seed=50)
    s_val = tiny_batch(10, seed=60)
    against = normalized(gradient(loss_of(view), view.trainable, s_val), "per_tensor")
    fed = make("vanilla").poison(clean, learner.view(), Phase.TRIGGER)
    noise = make("noise").poison(clean, learner.view(), Phase.TRIGGER)
    assert alignment(view, fed, against) < min(alignment(view, clean, against), alignment(view, noise, against))


@pytest.mark.parametrize("weight", [0.0, 1.0, 100.0])
def test_the_accumulative_phase_raises_equation_9(weight: float) -> None:
    learner = trained()
    view, clean = learner.view(), tiny_batch(seed=70)
    s_val, s_trigger = tiny_batch(10, seed=60), tiny_batch(8, seed=50)
    keep = gradient(loss_of(view), view.trainable, clean)
    towards = DoubleBackward().accumulation_direction(loss_of(view), view.trainable, s_val, s_trigger)
    target = {k: keep[k] + weight * towards[k] for k in keep}
    campaign = accumulative(
        s_trigger,
        lambda n: s_val,
        torch.Generator(),
        epsilon=0.1,
        pgd_steps=5,
        normalize="none",
        trigger_batch="clean",
        accumulation_weight=weight,
    )
    fed = campaign.poison(clean, learner.view(), Phase.ACCUMULATE)
    assert alignment(view, fed, target) > alignment(view, clean, target)


def test_the_trigger_is_kept_crafted_anew_or_moved_as_asked() -> None:
    learner = trained()
    clean = tiny_batch(8, seed=50)

    def triggers(mode: str) -> list[torch.Tensor]:
        campaign = make(mode)
        found = []
        for i in range(2):
            campaign.poison(tiny_batch(seed=70 + i), learner.view(), Phase.ACCUMULATE)
            found.append(campaign.poison(clean, learner.view(), Phase.TRIGGER).x)
            for j in range(5):
                learner.step(tiny_batch(seed=80 + 5 * i + j))
        return found

    fixed = triggers("accumulative")
    assert torch.equal(fixed[0], fixed[1])
    for mode in ("recrafted", "optimized"):
        first, second = triggers(mode)
        assert not torch.equal(first, second)


def test_resampling_draws_anew_each_round() -> None:
    draws: list[int] = []

    def validation(n: int) -> Batch:
        draws.append(n)
        return tiny_batch(n, seed=len(draws))

    def rounds(**settings: Any) -> int:
        draws.clear()
        campaign = accumulative(
            tiny_batch(8), validation, torch.Generator(), trigger_batch="clean", pgd_steps=1, **settings
        )
        for i in range(3):
            campaign.poison(tiny_batch(seed=i), trained().view(), Phase.ACCUMULATE)
        return len(draws)

    assert rounds(resample_validation=False) == 1
    assert rounds(resample_validation=True) == 3


def test_without_a_weight_the_optimised_trigger_stays_where_it_started() -> None:
    learner, clean = trained(), tiny_batch(8, seed=50)

    def trigger(weight: float) -> torch.Tensor:
        campaign = accumulative(
            clean,
            lambda n: tiny_batch(n, seed=60),
            torch.Generator(),
            trigger_batch="optimized",
            pgd_steps=2,
            accumulation_weight=weight,
        )
        campaign.poison(tiny_batch(seed=70), learner.view(), Phase.ACCUMULATE)
        return campaign.poison(clean, learner.view(), Phase.TRIGGER).x

    assert torch.equal(trigger(0.0), clean.x)
    assert not torch.equal(trigger(1.0), clean.x)


def test_evading_keeps_the_discrepancy_low() -> None:
    learner, score = trained(), MemorizationDiscrepancy("early")
    plain, evading = (campaign_of(row, learner)[0] for row in ("accumulative", "evading"))
    view = learner.view()
    assert float(score(evading, view).mean()) < float(score(plain, view).mean())


def test_a_surrogate_is_crafted_on_in_place_of_the_learner() -> None:
    learner = trained()
    on_the_past = campaign_of("surrogate", learner)
    for _ in range(3):  # the learner moves on, the surrogate does not
        learner.step(tiny_batch(seed=90))
    assert all(torch.equal(a.x, b.x) for a, b in zip(on_the_past, campaign_of("surrogate", learner), strict=True))
    assert not torch.equal(on_the_past[0].x, campaign_of("accumulative", learner)[0].x)


def test_objectives_and_starts_that_cannot_work_are_refused() -> None:
    def build(**settings: Any) -> OnlineAttack:
        return accumulative(tiny_batch(), tiny_batch, torch.Generator(), **settings)

    with pytest.raises(AttackError, match="random_start = true"):
        build(objective="kl")
    with pytest.raises(AttackError, match="pgd_momentum"):
        build(trigger_batch="optimized", pgd_momentum=1.0)


def test_flipped_labels_are_of_other_classes_or_of_the_one_asked_for() -> None:
    view, clean = trained().view(), tiny_batch(60, seed=3)

    def flipped(**settings: Any) -> Batch:
        campaign = ATTACKS["label_flip"](torch.Generator().manual_seed(0), **settings)
        return campaign.poison(clean, view, Phase.ACCUMULATE)

    assert bool((flipped().y != clean.y).all())
    assert set(flipped().y.tolist()) == {0, 1, 2}
    assert torch.equal(flipped(target_class=1).y, torch.ones_like(clean.y))
    only = flipped(source_class=0, target_class=2).y
    assert torch.equal(only, torch.where(clean.y == 0, 2, clean.y))
    assert int((flipped(poison_fraction=0.25).y != clean.y).sum()) == 15
    with pytest.raises(AttackError, match="target_class: got 3, wanted 0 to 2"):
        flipped(target_class=3)
