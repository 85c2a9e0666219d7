"""The direct gradient method: poison climbs the loss that normal samples have after one update on it."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from taster.attacks.crafting_trace import CraftingTrace
from taster.attacks.online_attack import Budget, OnlineAttack, SampleFn
from taster.attacks.poison_init import InitMode, PoisonInit
from taster.attacks.unrolled_update import UNROLLED_METHOD, OneStepUpdate, UpdateGradient, loss_and_gradient
from taster.core.functional_model import BatchNormMode
from taster.core.types import Batch
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.perturbations.pgd import LpBall, Norm
from taster.utils.settings import validate_settings


@validate_settings
def direct_gradient(
    draw_validation: SampleFn,
    generator: torch.Generator,
    learning_rate: float,
    derivatives: Derivatives | None = None,
    *,
    gradient: UpdateGradient = "unrolled",
    group_size: Annotated[int, Field(ge=1)] = 100,
    init: InitMode = "sample",
    target_class: Annotated[int, Field(ge=0)] | None = None,
    source_class: Annotated[int, Field(ge=0)] | None = None,
    step_size: Annotated[float, Field(gt=0)] = 0.1,
    tol: Annotated[float, Field(ge=0)] = 0.001,
    iterations: Annotated[int, Field(ge=0)] = 30,
    fd_step: Annotated[float, Field(gt=0)] = 0.01,
    keep: Literal["most_harmful", "last"] = "most_harmful",
    epsilon: Annotated[float, Field(ge=0)] = 1.0,
    norm: Norm = "linf",
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
    batch_norm: BatchNormMode = "eval",
    greedy: bool = False,
) -> OnlineAttack:
    """Samples under wrong labels, moved along the sign of the gradient of the normal samples' loss after one update.

        θ' = θ − η ∇_θ L(S_p; θ)
        x_p(t + 1) = x_p(t) + α sign ∇ L(S_n; θ')     until |L(S_n; θ'(t)) − L(S_n; θ'(t − 1))| < L_th

    A trigger batch of one sample is the single injection of the paper; larger ones are poisoned as one. The samples
    stay in the range of the data, of which the paper says nothing, and the loss is a mean over the group where it has
    the sum, so that one threshold serves every size.

    Args:
        draw_validation: draws S_n, once a batch.
        generator: draws which samples are poisoned, their labels, and the noise.
        learning_rate: η, the learner's learning rate; it is taken to be plain SGD, without the momentum that it may carry.
        derivatives: how "first_order" computes; by default held differences in float32.
        gradient: the way to ∇ L(S_n; θ') in the poison: "finite_differences" element by element (Algorithm 1), "unrolled"
            through the update, or "first_order", with the group's gradient taken before the update.
        group_size: samples in S_n.
        init: "sample" begins at a normal sample, "uniform" at noise.
        target_class: t_p, the attacking class; None draws a wrong one for each sample. A sample that is of this class already
            gets another.
        source_class: the class of the attacker's own samples to begin at; None begins at the batch's own.
        step_size: α, in the units of the data.
        tol: L_th, in the units of the loss.
        iterations: at most; 0 leaves the start as it is, which is the control.
        fd_step: Δx, of "finite_differences".
        keep: "most_harmful" injects the iteration after which the loss was the greatest, which is what the paper's
            Table I reports; "last" the one at which it stopped.
        epsilon: how far a sample may lie from the batch's own; 1, the range of the data, binds nothing.
        norm: of that ball; under "l2" steps go along the gradient and not its sign.
        poison_fraction: share of a batch that is poisoned.
        batch_norm: statistics used while crafting: the recorded ones, or those of the batch.
        greedy: poisons every batch of the stream likewise.

    Raises (when called):
        AttackError: for a target that the model has no output for, or a source that there are no samples of.

    Source: Yang et al. 2017, Algorithm 1 ("direct gradient method").
    """
    budget = Budget(LpBall(norm, epsilon), poison_fraction, labels=True)
    begin = PoisonInit(budget, draw_validation, generator, init, target_class, source_class, group_size)
    computing = Derivatives(UNROLLED_METHOD) if gradient == "unrolled" else derivatives or Derivatives()
    trace = CraftingTrace()

    def craft(clean: Batch, view: View) -> Batch:
        begun, chosen = begin(clean, view)
        injection = OneStepUpdate(view, draw_validation(group_size), learning_rate, batch_norm)
        trace.start()
        slope = loss_and_gradient(gradient, injection, computing, chosen, fd_step)
        poison, before = begun, float("nan")
        for t in range(iterations + 1):
            loss, found = slope(poison)
            trace.append(poison, loss)
            if t == iterations or abs(loss - before) < tol:
                break
            ascent, before = found(), loss
            ascent[~chosen] = 0
            poison = Batch(budget.ball.step(poison.x, ascent, step_size, clean.x), poison.y)
        return trace.most_harmful if keep == "most_harmful" else poison

    told = None if gradient == "finite_differences" else computing
    return OnlineAttack(budget, craft if greedy else None, craft, told, trace=trace)
