"""Adversarial samples as poison: noise that maximizes the error of the model that it is made by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field

from taster.attacks.crafting import model_to_craft_on
from taster.attacks.online_attack import OnlineAttack, PerturbationSettings
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.perturbations.pgd import pgd
from taster.perturbations.sample_gradient import error_maximising_gradient
from taster.utils.setting_types import ModelRef, PositiveCount
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "feature space",
    "stream step",
    note=(
        "Its family is a matter of opinion: the noise has features of another class under the sample's own "
        "label, but is found by the loss and not by features; with `surrogate` it is grey box."
    ),
)
@validate_settings
def adversarial_poison(
    generator: torch.Generator,
    surrogates: Mapping[str, View] | None = None,
    *,
    perturbation: PerturbationSettings = PerturbationSettings(),
    targeted: bool = False,
    label_shift: PositiveCount = 1,
    pgd_steps: PositiveCount = 250,
    step_size: Annotated[float, Field(gt=0)] | None = None,
    random_start: bool = True,
    surrogate: ModelRef | None = None,
) -> OnlineAttack:
    """Adversarial samples under their own labels, in the stream and in the trigger: error-maximizing noise.

        untargeted    max over ‖δ‖ ≤ ε of CE(f(x + δ; θ), y)
        targeted      min over ‖δ‖ ≤ ε of CE(f(x + δ; θ), g(y)),   g(y) = (y + s) mod K

    The labels stay: a model that learns the poison learns features of the class g(y), or of whatever class the noise
    looks like, under the label y. Nothing is aimed at a trigger step, unlike in `accumulative`.

    The paper poisons a whole data set once, by a pretrained model θ, for networks trained on it afterwards. Here each
    batch is poisoned as it comes, by the present model, or by one that does not change with `surrogate`. It also
    crafts through random augmentation, which the stream has made before the attack, and keeps the best of several
    restarts; neither is needed or done here.

    Args:
        generator: draws which samples are poisoned, and random starts.
        surrogates: the attacker's own models, by label.
        perturbation: see `taster.attacks.PerturbationSettings`.
        targeted: whether to descend towards g(y) instead of ascending from y.
        label_shift: s of g, 1 as in the published code. Any permutation would do that leaves no class in its place.
        pgd_steps: number of PGD steps, C.
        step_size: α, in the units of the data. Default: ε / 20, as in the published code.
        random_start: whether PGD starts at a random point of the ball instead of the clean samples.
        surrogate: model to craft by instead of the present one, θ of the paper: an earlier one, by label or number of
            steps back, or the label of one of the attacker's own models.

    Raises (when called):
        AttackError: for a `label_shift` that leaves every class in its place.

    Source: Fowl et al. 2021 ("Adversarial examples make strong poisons"); as the poison of Zhu et al. 2023,
        Figs. 10 to 12 (Appendix C.11).
    """
    budget = perturbation.budget()
    alpha = perturbation.epsilon / 20 if step_size is None else step_size

    def attack(clean: Batch, view: View) -> Batch:
        by = model_to_craft_on(surrogate, surrogates or {}, view)
        chosen = budget.draw_mask(len(clean), generator).to(clean.x.device)
        x = clean.x.clone()
        if bool(chosen.any()):
            start = clean.x[chosen]
            x[chosen] = pgd(
                error_maximising_gradient(by, clean.y[chosen], label_shift if targeted else None),
                start,
                budget.ball,
                steps=pgd_steps,
                step_size=alpha,
                init=budget.ball.random(start, generator) if random_start else None,
            )
        return Batch(x, clean.y)

    return OnlineAttack(budget, accumulate=attack, trigger=attack)
