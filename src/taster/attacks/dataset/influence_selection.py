"""Poisons those samples from which an attacker has most, as the influence function says."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from taster.attacks.dataset.flat_samples import draw_rows, flat_samples, poisoned_count, with_changed
from taster.attacks.dataset_attack import (
    ContentChange,
    DatasetAttack,
    DatasetBudget,
    DatasetKnowledge,
    DatasetPoisonSettings,
    Poison,
)
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.derivatives.convex_models import ConvexModel, ConvexSettings, train_convex
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall, Norm, pgd
from taster.utils.setting_types import NonNegative, PositiveCount
from taster.utils.settings import validate_settings

Perturbation = Literal["label_flip", "noise", "gradient"]


@threat(
    "indiscriminate",
    "availability",
    "grey box",
    "none",
    "influence",
    "before training",
    note='With perturbation = "noise" or "gradient" samples are changed, each in its own way.',
)
@validate_settings
def influence_selection(
    *,
    model: ConvexSettings = ConvexSettings(),
    poison: DatasetPoisonSettings = DatasetPoisonSettings(),
    select: Literal["influence", "random"] = "influence",
    perturbation: Perturbation = "label_flip",
    norm: Norm = "linf",
    epsilon: NonNegative = 0.1,
    iterations: PositiveCount = 10,
    rounds: PositiveCount = 1,
    damping: NonNegative = 0.0,
) -> DatasetAttack:
    """Poisons the samples whose poisoning most raises the loss of the attacker's own samples, by influence functions.

    What replacing (x, y) by (x′, y′) does to that loss L is −∇Lᵀ H⁻¹ (∇ℓ(x′, y′) − ∇ℓ(x, y)) / n, to first order.

    Args:
        model: the learner, which the attacker trains on the clean set.
        poison: how many samples are changed.
        select: "influence" takes those that raise the loss most, and none that would lower it; "random", the control,
            takes any and perturbs them in the same way.
        perturbation: "label_flip" gives each sample the wrong label that raises the loss most; "noise" a random draw
            from the ball's boundary; "gradient" ascends the influence in x within the ball.
        norm: of the ball, for "noise" and "gradient".
        epsilon: its radius, in the units of the data.
        iterations: steps of "gradient", of size 2.5 ε / iterations each.
        rounds: the samples are poisoned in so many parts; before each, the model is trained again.
        damping: added to the diagonal of the Hessian.

    Raises (when it poisons):
        AttackError: for a share that is no sample.
        ModelError: for a learner or a linear system that does not converge.

    Source: Koh and Liang 2017, Eq. 2 and Section 5.2 ("gradient"); the choice of samples by influence Fang et al. 2020
        ("Influence function based data poisoning attacks to top-N recommender systems").
    """
    content: ContentChange = "none" if perturbation == "label_flip" else LpBall(norm, epsilon)
    budget = DatasetBudget(poison.poison_fraction, content=content, labels=perturbation == "label_flip")

    def attack(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        flat = flat_samples(clean, knowledge, "influence_selection")
        if flat.classes < 2:
            raise AttackError(f"influence_selection: got {flat.classes} class, wanted at least 2")
        count = poisoned_count(budget, len(flat), "influence_selection")
        ball = LpBall(norm, epsilon, knowledge.low, knowledge.high)
        x, y = flat.x.clone(), flat.y.clone()
        open_to = torch.ones(len(flat), dtype=torch.bool, device=x.device)
        learned = train_convex(model, x, y, flat.classes)
        for part in range(min(rounds, count)):
            share = count * (part + 1) // min(rounds, count) - count * part // min(rounds, count)
            if part:
                learned = learned.retrained(x, y)
            along = learned.solve(learned.mean_loss_gradient(flat.own_x, flat.own_y), damping)
            if perturbation == "label_flip":
                new_x, new_y = x, most_harmful_labels(learned, y, along)
            else:
                new_y = y
                if perturbation == "noise":
                    new_x = ball.random_boundary(x, knowledge.generator)
                else:
                    new_x = most_harmful_content(learned, x, y, along, ball, iterations)
            if select == "random":
                rows = draw_rows(open_to, share, knowledge.generator)
            else:
                gain = learned.influence(new_x, new_y, along) - learned.influence(x, y, along)
                rows = gain.masked_fill(~open_to, -torch.inf).topk(share).indices
                rows = rows[gain[rows] > 0]
            x[rows], y[rows] = new_x[rows], new_y[rows]
            open_to[rows] = False
        changed = (~open_to).nonzero().flatten()
        return Poison(with_changed(clean, changed, x[changed], y[changed]))

    return DatasetAttack(budget, attack)


def most_harmful_labels(model: ConvexModel, y: Tensor, along: Tensor) -> Tensor:
    """For each training sample the wrong label with the greatest influence on the outer objective, int64 [n].

    Args:
        model: trained on the samples.
        y: their labels, int64 [n].
        along: H⁻¹ ∇F, [K, d + 1].
    """
    K = len(model.theta)
    gains = torch.stack([model.influence(model.x[:, :-1], torch.full_like(y, k), along) for k in range(K)], 1)
    return gains.masked_fill(one_hot(y, K).bool(), -torch.inf).argmax(1)


def most_harmful_content(
    model: ConvexModel, x: Tensor, y: Tensor, along: Tensor, ball: LpBall, iterations: int
) -> Tensor:
    """Each sample moved up its influence on the outer objective within the ball, θ and H as they are, [n, d].

    Source: Koh and Liang 2017, Section 5.2, all samples at once.
    """
    size = 2.5 * ball.epsilon / iterations
    return pgd(lambda moved: -model.pull(moved, y, along), x, ball, steps=iterations, step_size=size)
