"""The direct gradient method: gradient ascent on the loss that normal samples have after one update on the poison."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from taster.attacks.crafting_trace import CraftingTrace
from taster.attacks.online_attack import OnlineAttack, SampleFn
from taster.attacks.poison_init import InjectionSettings, PoisonInit
from taster.attacks.unrolled_update import UNROLLED_METHOD, UpdateGradient, loss_and_gradient
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "bilevel",
    "stream step",
    note=(
        "The labels are wrong as well, so that it could be counted as label poisoning; what the method "
        "optimizes is the content."
    ),
)
@validate_settings
def direct_gradient(
    draw_validation: SampleFn,
    generator: torch.Generator,
    learning_rate: float,
    derivatives: Derivatives | None = None,
    *,
    injection: InjectionSettings = InjectionSettings(),
    gradient: UpdateGradient = "unrolled",
    step_size: Annotated[float, Field(gt=0)] = 0.1,
    fd_step: Annotated[float, Field(gt=0)] = 0.01,
) -> OnlineAttack:
    """Mislabelled samples, moved along the sign of the gradient of the normal samples' loss after one update.

        θ' = θ − η ∇_θ L(S_p; θ)
        x_p(t + 1) = x_p(t) + α sign ∇ L(S_n; θ')     until |L(S_n; θ'(t)) − L(S_n; θ'(t − 1))| < L_th

    A trigger batch of one sample is the single injection of the paper; larger ones are poisoned together. The samples
    stay in the range of the data, of which the paper says nothing, and the loss is the mean over the group instead of
    the sum, so that one tolerance serves every group size.

    Args:
        draw_validation: draws S_n, once per batch.
        generator: draws which samples are poisoned, their labels, and the noise.
        learning_rate: η, of the learner, which is taken to be plain SGD without momentum.
        derivatives: computes "first_order". Default: finite differences in float32.
        injection: see `taster.attacks.InjectionSettings`. With the norm "l2" steps follow the gradient, not its sign.
        gradient: how ∇ L(S_n; θ') is computed: "finite_differences" element by element (Algorithm 1), "unrolled"
            through the update, or "first_order", with the group's gradient taken before the update.
        step_size: α, in the units of the data.
        fd_step: Δx of "finite_differences".

    Raises (when called):
        AttackError: if the model has no output for the target class, or the attacker no sample of the source class.

    Source: Yang et al. 2017, Algorithm 1 ("direct gradient method").
    """
    init = PoisonInit(injection, draw_validation, generator)
    budget, trace = init.budget, CraftingTrace()
    computing = Derivatives(UNROLLED_METHOD) if gradient == "unrolled" else derivatives or Derivatives()

    def craft(clean: Batch, view: View) -> Batch:
        poison, mask = init(clean, view)
        update = init.draw_update(view, learning_rate)
        trace.start()
        evaluate = loss_and_gradient(gradient, update, computing, mask, fd_step)
        before = float("nan")
        for t in range(injection.iterations + 1):
            loss, loss_gradient = evaluate(poison)
            trace.append(poison, loss)
            if t == injection.iterations or abs(loss - before) < injection.tol:
                break
            ascent, before = loss_gradient(), loss
            ascent[~mask] = 0
            poison = Batch(budget.ball.step(poison.x, ascent, step_size, clean.x), poison.y)
        return injection.kept(trace, poison)

    used = None if gradient == "finite_differences" else computing
    return OnlineAttack(budget, craft if injection.greedy else None, craft, used, trace=trace)
