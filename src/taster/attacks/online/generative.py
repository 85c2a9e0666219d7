"""The generative method: an autoencoder makes the poison and is trained on the target's reaction to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.autoencoder import Autoencoder, GeneratorTrainer, pretrain_autoencoder
from taster.attacks.crafting_trace import CraftingTrace
from taster.attacks.online_attack import OnlineAttack, SampleFn
from taster.attacks.poison_init import InjectionSettings, PoisonInit
from taster.attacks.unrolled_update import UNROLLED_METHOD, LossAndGradientFn, OneStepUpdate, unrolled_gradient
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.utils.settings import validate_settings

Policy = Literal["normal_data", "unrolled"]


@threat("indiscriminate", "availability", "white box", "individual", "generative", "stream step")
@validate_settings
def generative(
    draw_validation: SampleFn,
    generator: torch.Generator,
    learning_rate: float,
    *,
    injection: InjectionSettings = InjectionSettings(iterations=100),
    policy: Policy = "normal_data",
    patience: Annotated[int, Field(ge=1)] = 20,
    hidden: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [200, 200],  # noqa: B006 (never written to)
    pretraining_size: Annotated[int, Field(ge=1)] = 1000,
    pretraining_epochs: Annotated[int, Field(ge=0)] = 30,
    generator_learning_rate: Annotated[float, Field(gt=0)] = 1e-3,
) -> OnlineAttack:
    """Mislabelled samples made by an autoencoder; the target model, as discriminator, gives its training signal.

        θ' = θ − η ∇_θ L(S_p; θ)                      one update on the poison
        d_t = Σ ∂L(x_i; θ') / ∂x_i  over S_n          the target's gradient ("normal_data")
        w_t = w_{t−1} if L(S_n; θ'(t)) > L(S_n; θ'(t − 1)) else −w_{t−1},  w_0 = 1
        G ← G + Adam step along ⟨G(x_p(0)), w_t d_t / ‖d_t‖⟩
        x_p(t + 1) = G(x_p(0))

    What the paper leaves open is decided as follows. The reward is the sign w_t: after a step that raised the loss G
    continues in the same direction along the target's gradient; after one that did not it turns round, since the
    gradient in the normal samples gives the line along which to move the poison and not the side. The size of the
    difference of the losses is left out, since Adam normalizes it away. The generator's input is always the initial
    poison. With the stopping rule as printed, L(t) − L(t − 1) < L_th, the first punished step would be the last one; so
    it has to hold `patience` times in a row, and 1 is the printed rule. Everything else is as in `direct_gradient`.

    Args:
        draw_validation: draws S_n, once per batch, and the generator's training samples, once.
        generator: draws which samples are poisoned, their labels, the noise, and the generator's weights.
        learning_rate: η, of the learner.
        injection: see `taster.attacks.InjectionSettings`.
        policy: "normal_data" uses the target's gradient in its normal samples, Σ ∂L/∂x_i, as in Algorithm 2;
            "unrolled" the gradient in the poison through the update, which the direct method ascends.
        patience: number of iterations in a row that gain less than `tol`, after which crafting ends.
        hidden: hidden widths of the generator. [200, 200] is the 784-200-200-784 of the paper on MNIST; five hidden
            layers make its six layers on CIFAR-10.
        pretraining_size: number of own samples that the generator is pre-trained on.
        pretraining_epochs: number of passes over them.
        generator_learning_rate: α, of Adam.

    Raises (when called):
        AttackError: if the model has no output for the target class, or the attacker no sample of the source class.

    Source: Yang et al. 2017, Algorithm 2 ("generative method").
    """
    init = PoisonInit(injection, draw_validation, generator)
    budget, trace, computing = init.budget, CraftingTrace(), Derivatives(UNROLLED_METHOD)
    trained: list[Autoencoder] = []

    def autoencoder() -> Autoencoder:
        if not trained:
            began = time.perf_counter()
            x, ball = draw_validation(pretraining_size).x, budget.ball
            trained.append(pretrain_autoencoder(x, hidden, pretraining_epochs, generator, ball.low, ball.high))
            trace.setup_seconds = time.perf_counter() - began
        return trained[0]

    def craft(clean: Batch, view: View) -> Batch:
        initial, mask = init(clean, view)
        update = init.draw_update(view, learning_rate)
        model = autoencoder()  # after the draws, so that it starts where `direct_gradient` does
        trace.start()
        evaluate = unrolled_gradient(update, computing) if policy == "unrolled" else normal_data_gradient(update)
        trainer, first = GeneratorTrainer(model, generator_learning_rate), initial.x[mask]
        poison, before, sign, idle = initial, float("nan"), 1.0, 0
        for t in range(injection.iterations + 1):
            loss, direction = evaluate(poison)
            trace.append(poison, loss)
            if t:
                sign = sign if loss > before else -sign
                idle = 0 if loss - before >= injection.tol else idle + 1
            if t == injection.iterations or idle == patience or len(first) == 0:
                break
            before = loss
            made = trainer.step(first, sign * _unit(direction().expand_as(poison.x)[mask]))
            x = initial.x.clone()
            x[mask] = budget.ball.project(made, clean.x[mask])
            poison = Batch(x, poison.y)
        return injection.kept(trace, poison)

    used = computing if policy == "unrolled" else None
    return OnlineAttack(budget, craft if injection.greedy else None, craft, used, trace=trace)


def normal_data_gradient(update: OneStepUpdate) -> LossAndGradientFn:
    """The sum over the group of the target's gradients in its own samples after the update, the same for all poison.

    Source: Yang et al. 2017, Algorithm 2, step 3.
    """

    def both(poison: Batch) -> tuple[float, Callable[[], Tensor]]:
        after = update.update(poison)
        x: Tensor = update.normal.x.detach().requires_grad_(True)
        loss = update.loss(after, x, update.normal.y)

        def found() -> Tensor:
            (slopes,) = torch.autograd.grad(loss, x)
            return slopes.sum(0, keepdim=True)

        return float(loss.detach()), found

    return both


def _unit(direction: Tensor) -> Tensor:
    """Each sample's direction at unit length; a zero direction stays zero."""
    sizes = torch.linalg.vector_norm(direction.flatten(1), dim=1)
    rows = sizes.clamp_min(torch.finfo(direction.dtype).tiny).reshape(-1, *[1] * (direction.dim() - 1))
    unit: Tensor = torch.nan_to_num(direction) / rows
    return unit
