"""The generative method: an autoencoder makes the poison, and learns from what the target does after it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.autoencoder import Autoencoder, GeneratorTrainer, pretrain_autoencoder
from taster.attacks.crafting_trace import CraftingTrace
from taster.attacks.online_attack import Budget, OnlineAttack, SampleFn
from taster.attacks.poison_init import InitMode, PoisonInit
from taster.attacks.unrolled_update import UNROLLED_METHOD, LossAndGradientFn, OneStepUpdate, unrolled_gradient
from taster.core.functional_model import BatchNormMode
from taster.core.types import Batch
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.perturbations.pgd import LpBall, Norm
from taster.utils.settings import validate_settings

Policy = Literal["normal_data", "unrolled"]


@validate_settings
def generative(
    draw_validation: SampleFn,
    generator: torch.Generator,
    learning_rate: float,
    *,
    policy: Policy = "normal_data",
    group_size: Annotated[int, Field(ge=1)] = 100,
    init: InitMode = "sample",
    target_class: Annotated[int, Field(ge=0)] | None = None,
    source_class: Annotated[int, Field(ge=0)] | None = None,
    hidden: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [200, 200],  # noqa: B006 (never written to)
    pretraining_size: Annotated[int, Field(ge=1)] = 1000,
    pretraining_epochs: Annotated[int, Field(ge=0)] = 30,
    generator_learning_rate: Annotated[float, Field(gt=0)] = 1e-3,
    tol: Annotated[float, Field(ge=0)] = 0.001,
    patience: Annotated[int, Field(ge=1)] = 20,
    iterations: Annotated[int, Field(ge=0)] = 100,
    keep: Literal["most_harmful", "last"] = "most_harmful",
    epsilon: Annotated[float, Field(ge=0)] = 1.0,
    norm: Norm = "linf",
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
    batch_norm: BatchNormMode = "eval",
    greedy: bool = False,
) -> OnlineAttack:
    """Samples under wrong labels that an autoencoder makes; the target, as discriminator, tells it how to go on.

        θ' = θ − η ∇_θ L(S_p; θ)                      one update on the poison
        d_t = Σ ∂L(x_i; θ') / ∂x_i  over S_n          the target's gradient ("normal_data")
        w_t = w_{t−1} if L(S_n; θ'(t)) > L(S_n; θ'(t − 1)) else −w_{t−1},  w_0 = 1
        G ← G + Adam step along ⟨G(x_p(0)), w_t d_t / ‖d_t‖⟩
        x_p(t + 1) = G(x_p(0))

    What the paper leaves open is so decided here. The reward is the sign w_t: after a step that raised the loss G goes
    on the same way along the target's gradient; a step that did not is punished by turning round, since the gradient in
    the normal samples tells along which line the poison may move and not to which side. The size of the two losses'
    difference is left out, as Adam takes out any size. What the generator is fed is the start, always. With the
    stopping rule as it is printed, L(t) − L(t − 1) < L_th, the first punished step would be the last of all; so it has
    to hold `patience` times in a row, and 1 is the rule as it is printed. Everything else is as in `direct_gradient`.

    Args:
        draw_validation: draws S_n, once a batch, and what the generator is trained on, once.
        generator: draws which samples are poisoned, their labels, the noise, and the generator's weights.
        learning_rate: η, the learner's learning rate.
        policy: "normal_data" sends the target's gradient in its normal samples, Σ ∂L/∂x_i, as in Algorithm 2;
            "unrolled" that in the poison through the update, the one that the direct method climbs.
        group_size: samples in S_n.
        init: "sample" begins at a normal sample, "uniform" at noise.
        target_class: t_p, the attacking class; None draws a wrong one for each sample.
        source_class: the class of the attacker's own samples to begin at; None begins at the batch's own.
        hidden: widths between the generator's first and last; [200, 200] is the 784-200-200-784 of the paper on MNIST,
            five of them make the six layers that it has on CIFAR-10.
        pretraining_size: own samples that the generator is trained on before.
        pretraining_epochs: over them.
        generator_learning_rate: α, of Adam.
        tol: L_th, in the units of the loss.
        patience: iterations in a row that gain less than L_th and end it.
        iterations: at most; 0 leaves the start as it is.
        keep: "most_harmful" injects the iteration after which the loss was the greatest; "last" the last.
        epsilon: how far a sample may lie from the batch's own; 1, the range of the data, binds nothing.
        norm: of that ball.
        poison_fraction: share of a batch that is poisoned.
        batch_norm: statistics used while crafting: the recorded ones, or those of the batch.
        greedy: poisons every batch of the stream likewise.

    Raises (when called):
        AttackError: for a target that the model has no output for, or a source that there are no samples of.

    Source: Yang et al. 2017, Algorithm 2 ("generative method").
    """
    budget = Budget(LpBall(norm, epsilon), poison_fraction, labels=True)
    begin = PoisonInit(budget, draw_validation, generator, init, target_class, source_class, group_size)
    trace, computing = CraftingTrace(), Derivatives(UNROLLED_METHOD)
    trained: list[Autoencoder] = []

    def autoencoder() -> Autoencoder:
        if not trained:
            began = time.perf_counter()
            x, ball = draw_validation(pretraining_size).x, budget.ball
            trained.append(pretrain_autoencoder(x, hidden, pretraining_epochs, generator, ball.low, ball.high))
            trace.setup_seconds = time.perf_counter() - began
        return trained[0]

    def craft(clean: Batch, view: View) -> Batch:
        begun, chosen = begin(clean, view)
        injection = OneStepUpdate(view, draw_validation(group_size), learning_rate, batch_norm)
        model = autoencoder()  # after the draws, so that it begins where `direct_gradient` does
        trace.start()
        advice = unrolled_gradient(injection, computing) if policy == "unrolled" else normal_data_gradient(injection)
        maker, first = GeneratorTrainer(model, generator_learning_rate), begun.x[chosen]
        poison, before, weight, idle = begun, float("nan"), 1.0, 0
        for t in range(iterations + 1):
            loss, direction = advice(poison)
            trace.append(poison, loss)
            if t:
                weight = weight if loss > before else -weight
                idle = 0 if loss - before >= tol else idle + 1
            if t == iterations or idle == patience or len(first) == 0:
                break
            before = loss
            made = maker.step(first, weight * _unit(direction().expand_as(poison.x)[chosen]))
            x = begun.x.clone()
            x[chosen] = budget.ball.project(made, clean.x[chosen])
            poison = Batch(x, poison.y)
        return trace.most_harmful if keep == "most_harmful" else poison

    told = computing if policy == "unrolled" else None
    return OnlineAttack(budget, craft if greedy else None, craft, told, trace=trace)


def normal_data_gradient(update: OneStepUpdate) -> LossAndGradientFn:
    """The sum over the group of the target's gradients in its own samples after the update, the same for all poison.

    Source: Yang et al. 2017, Algorithm 2, step 3.
    """

    def slope(poison: Batch) -> tuple[float, Callable[[], Tensor]]:
        after = update.update(poison)
        x = update.normal.x.detach().requires_grad_(True)
        loss = update.loss(after, x, update.normal.y)

        def found() -> Tensor:
            (slopes,) = torch.autograd.grad(loss, x)
            return slopes.sum(0, keepdim=True)

        return float(loss.detach()), found

    return slope


def _unit(direction: Tensor) -> Tensor:
    """Each sample's direction at unit length; none stays none."""
    sizes = torch.linalg.vector_norm(direction.flatten(1), dim=1)
    rows = sizes.clamp_min(torch.finfo(direction.dtype).tiny).reshape(-1, *[1] * (direction.dim() - 1))
    unit: Tensor = torch.nan_to_num(direction) / rows
    return unit
