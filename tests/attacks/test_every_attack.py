"""One row for every attack: pure towards the learner, within its budget, the same for the same seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.conftest import feed, make_attack, trained_learner
from tests.conftest import full_state, same_state, tiny_batch

from taster.attacks.online_attack import poison_mask

YANG = ("direct_gradient", "generative")


COMMON = {"pgd_steps": 3, "epsilon": 0.1, "validation_size": 10}

TAMPERING = {"draws": 5, "pool_size": 40, "validation_size": 20}


ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "noise": ("random_noise", {"epsilon": 0.1}),
    "foreign": ("ood_images", {"source": "digits", "poison_fraction": 0.5}),
    "tampering": ("p_tampering_stream", {"poison_fraction": 0.5, **TAMPERING}),
    "tampering by loss": ("p_tampering_stream", {"poison_fraction": 0.5, "choice": "loss", **TAMPERING}),
    "tampering any class": ("p_tampering_stream", {"poison_fraction": 0.5, "any_class": True, **TAMPERING}),
    "resetting": ("p_tampering_stream", {"poison_fraction": 0.75, "reset": True, **TAMPERING}),
    "labels": ("label_flip", {"poison_fraction": 0.5}),
    "noise l2": ("random_noise", {"epsilon": 0.1, "norm": "l2", "poison_fraction": 0.5}),
    "adversarial": ("adversarial_poison", {"epsilon": 0.1, "pgd_steps": 5}),
    "adversarial l2 part": (
        "adversarial_poison",
        {"epsilon": 0.1, "norm": "l2", "poison_fraction": 0.5, "pgd_steps": 5, "random_start": False},
    ),
    "adversarial targeted": ("adversarial_poison", {"epsilon": 0.1, "pgd_steps": 5, "targeted": True}),
    "adversarial surrogate": ("adversarial_poison", {"epsilon": 0.1, "pgd_steps": 5, "surrogate": "early"}),
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
    "steered": ("verdict_steering", {**COMMON, "first_strength": 1.0}),
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
    "patch": ("patch_backdoor", {"poison_fraction": 0.25, "target_class": 1}),
    "blended": ("blended_backdoor", {"poison_fraction": 0.25, "opacity": 0.3, "cover_fraction": 0.25}),
    "own trigger": ("trigger_backdoor", {"poison_fraction": 0.25, "trigger": "tests.attacks.test_backdoors:stripe"}),
    "clean label": ("clean_label_backdoor", {"poison_fraction": 0.25, "target_class": 1, "pgd_steps": 3}),
    "clean label l2": (
        "clean_label_backdoor",
        {"poison_fraction": 0.25, "trigger": "blended", "cover_fraction": 0.25, "norm": "l2"},
    ),
    "adaptive blend": ("adaptive_blend", {"poison_fraction": 0.25, "cover_fraction": 0.25}),
    "global cosine": ("accumulative", {**COMMON, "normalize": "global", "normalize_poisoned": True}),
}


@pytest.mark.parametrize("row", list(ROWS))
def test_every_attack_is_pure_repeatable_and_within_its_budget(row: str) -> None:
    name, settings = ROWS[row]
    learner = trained_learner()
    before, randomness = full_state(learner), torch.get_rng_state()
    fed = feed(make_attack(name, **settings), learner)
    assert same_state(before, full_state(learner))
    assert torch.equal(torch.get_rng_state(), randomness)
    ratio = settings.get("poison_fraction", 1.0) + settings.get("cover_fraction", 0.0)
    norm = settings.get("norm", "linf") if name != "clean_label_backdoor" else "linf"
    relabels = name in ("label_flip", "patch_backdoor", "blended_backdoor", "trigger_backdoor", "adaptive_blend", *YANG)
    relabels |= settings.get("any_class", False)
    for batch, clean in zip(fed, [tiny_batch(seed=70), tiny_batch(seed=71), tiny_batch(8, seed=50)], strict=True):
        struck = batch is fed[2] and "trigger_attack" in settings
        assert relabels or struck or torch.equal(batch.y, clean.y)
        assert bool(((batch.x >= 0) & (batch.x <= 1)).all())
        change = (batch.x - clean.x).flatten(1)
        size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        replaces = (
            name in ("ood_images", "p_tampering_stream", "patch_backdoor", "trigger_backdoor", "clean_label_backdoor")
            or struck
        )
        blends = {"blended_backdoor": settings.get("opacity"), "adaptive_blend": 0.2}.get(name)
        radius = 1.0 if replaces else blends or settings.get("epsilon", 1.0 if name in YANG else 0.1)
        assert bool((size <= radius + 1e-5).all())
        assert int(poison_mask(batch, clean).sum()) <= ratio * len(clean)
    expected = {"none": (0, 0), "vanilla_trigger": (0, 1), "clean": (1, 0), **dict.fromkeys(YANG, (0, 1))}
    stream, trigger = (1, 1) if settings.get("greedy") else expected.get(row if row == "clean" else name, (1, 1))
    assert bool(poison_mask(fed[0], tiny_batch(seed=70)).any()) == bool(stream)
    assert bool(poison_mask(fed[2], tiny_batch(8, seed=50)).any()) == bool(trigger)
    assert fed[2].loss_weight == settings.get("loss_scale", 1.0)
    again = feed(make_attack(name, **settings), learner)
    assert all(torch.equal(a.x, b.x) for a, b in zip(fed, again, strict=True))
