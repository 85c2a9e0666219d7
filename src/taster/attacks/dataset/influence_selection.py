"""Poisons those samples from which an attacker has most, as the influence function says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from taster.attacks.dataset.flat_samples import draw_rows, flat_samples, poisoned_count, with_changed
from taster.attacks.dataset.influences import Influences, LinearInfluences, net_influences
from taster.attacks.dataset_attack import (
    ContentChange,
    DatasetAttack,
    DatasetBudget,
    DatasetKnowledge,
    DatasetPoisonSettings,
    Poison,
)
from taster.core.batch import Batch
from taster.core.fitting import NetFit
from taster.core.threat import threat
from taster.derivatives.convex_models import ConvexModel, ConvexSettings, train_convex
from taster.derivatives.net_curvature import CurvatureSettings
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall, Norm, pgd
from taster.utils.setting_types import NonNegative, PositiveCount
from taster.utils.settings import validate_settings

Perturbation = Literal["label_flip", "noise", "gradient"]
Select = Literal["influence", "loss", "random"]

_NET_DAMPING = 0.01
"""Of nets, whose curvature has many eigenvalues near 0. With it conjugate gradients took 22 products on a net of 64
hidden units and 597 digits, with a tenth of it 50; it was chosen by no result of an attack."""


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
    learner: Literal["auto", "linear", "net"] = "auto",
    select: Select = "influence",
    perturbation: Perturbation = "label_flip",
    norm: Norm = "linf",
    epsilon: NonNegative = 0.1,
    iterations: PositiveCount = 10,
    rounds: PositiveCount = 1,
    damping: NonNegative | None = None,
    nets: PositiveCount = 1,
    solver: CurvatureSettings = CurvatureSettings(),
) -> DatasetAttack:
    """Poisons the samples whose poisoning most raises the loss of the attacker's own samples, by influence functions.

    What replacing (x, y) by (x′, y′) does to that loss L is −∇Lᵀ H⁻¹ (∇ℓ(x′, y′) − ∇ℓ(x, y)) / n, to first order.

    Args:
        model: the linear learner, which the attacker trains on the clean set, where `learner` comes to one.
        poison: how many samples are changed.
        learner: "linear" is `model`; "net" trains nets as the attacker knows, or supposes, that the victim does; "auto"
            is "net" where all the trainings that he knows of are of nets, and "linear" otherwise. For nets influence
            is less exact: they stand at no minimum, and the loss is not convex (Basu et al. 2021). Besides its
            trainings, a round costs a product with the curvature for each step of conjugate gradients, about two
            gradients of `curvature_samples` samples.
        select: "influence" takes those that raise the loss most, and none that would lower it; the controls
            perturb them in the same way, and take those with the largest loss ("loss") or any ("random").
        perturbation: "label_flip" gives each sample the wrong label that raises the loss most; "noise" a random draw
            from the ball's boundary; "gradient" ascends the influence in x within the ball.
        norm: of the ball, for "noise" and "gradient".
        epsilon: its radius, in the units of the data.
        iterations: steps of "gradient", of size 2.5 ε / iterations each.
        rounds: the samples are poisoned in so many parts; before each, the model is trained again.
        damping: added to the diagonal of the Hessian; for nets beside the training's weight decay. None: 0 for a linear
            learner, 0.01 for nets.
        nets: trained for each training that the attacker knows of; the mean of their influences counts. Not for
            "linear".
        solver: how linear systems are solved for nets; see `taster.attacks.CurvatureSettings`.

    Raises (when it poisons):
        AttackError: for a share that is no sample, and for "net" the training of an estimator.
        ModelError: for a learner or a linear system that does not converge, and curvature that is not positive.

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
        by_nets = learner == "net" or (learner == "auto" and all(isinstance(f, NetFit) for f in knowledge.fits))
        x, y = clean.x.detach().clone() if by_nets else flat.x.clone(), flat.y.clone()
        open_to = torch.ones(len(flat), dtype=torch.bool, device=x.device)
        learned: ConvexModel | None = None
        for part in range(min(rounds, count)):
            share = count * (part + 1) // min(rounds, count) - count * part // min(rounds, count)
            found: Influences
            if by_nets:
                found = net_influences(
                    Batch(x, y),
                    knowledge,
                    solver,
                    nets=nets,
                    first=part * nets,
                    damping=_NET_DAMPING if damping is None else damping,
                )
            else:
                learned = train_convex(model, x, y, flat.classes) if learned is None else learned.retrained(x, y)
                slope = learned.mean_loss_gradient(flat.own_x, flat.own_y)
                found = LinearInfluences(learned, learned.solve(slope, damping or 0.0))
            new_x, new_y = x, y
            if perturbation == "label_flip":
                new_y = most_harmful_labels(found.influence, x, y, flat.classes)
            elif perturbation == "noise":
                new_x = ball.random_boundary(x, knowledge.generator)
            else:
                new_x = most_harmful_content(found.slope, x, y, ball, iterations)
            if select == "random":
                rows = draw_rows(open_to, share, knowledge.generator)
            elif select == "loss":
                rows = found.losses(x, y).masked_fill(~open_to, -torch.inf).topk(share).indices
            else:
                gain = found.influence(new_x, new_y) - found.influence(x, y)
                rows = gain.masked_fill(~open_to, -torch.inf).topk(share).indices
                rows = rows[gain[rows] > 0]
            x[rows], y[rows] = new_x[rows], new_y[rows]
            open_to[rows] = False
        changed = (~open_to).nonzero().flatten()
        return Poison(with_changed(clean, changed, x[changed], y[changed]))

    return DatasetAttack(budget, attack)


def most_harmful_labels(influence: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, classes: int) -> Tensor:
    """For each training sample the wrong label with the greatest influence on the outer objective, int64 [n].

    Args:
        influence: of samples under labels; see `taster.attacks.dataset.influences.Influences`.
        x: samples, [n, ...].
        y: their labels, int64 [n].
        classes: K.
    """
    gains = torch.stack([influence(x, torch.full_like(y, k)) for k in range(classes)], 1)
    return gains.masked_fill(one_hot(y, classes).bool(), -torch.inf).argmax(1)


def most_harmful_content(
    slope: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, ball: LpBall, iterations: int
) -> Tensor:
    """Each sample moved up its influence on the outer objective within the ball, the learner as it is, [n, ...].

    Args:
        slope: the derivative of the influence of samples in the samples.
        x: samples, [n, ...].
        y: their labels, int64 [n].
        ball: around them.
        iterations: steps.

    Source: Koh and Liang 2017, Section 5.2, all samples at once.
    """
    size = 2.5 * ball.epsilon / iterations
    return pgd(lambda moved: slope(moved, y), x, ball, steps=iterations, step_size=size)
