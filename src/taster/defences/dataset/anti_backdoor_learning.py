"""Anti-backdoor learning: what is learned first is isolated, and then unlearned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from taster.core.batch import Batch
from taster.core.epochs import Epochs
from taster.core.fitting import Classifier, NetFit
from taster.core.learner import Learner
from taster.core.threat import countermeasure
from taster.defences.dataset.net_epochs import check_steps, net_fit
from taster.defences.dataset.readings import class_outputs
from taster.defences.dataset.run_checks import check_run, kept_weights, part_of, smallest
from taster.defences.dataset_defence import RobustTraining, TrainingRun
from taster.errors import DefenceError
from taster.perturbations.objectives import reversed_cross_entropy
from taster.utils.seeds import seeded
from taster.utils.setting_types import NonNegative, PositiveFloat
from taster.utils.settings import validate_settings

_NAME = "anti_backdoor_learning"
_ADVICE = "a smaller learning rate or unlearning_rate"

Part = Annotated[float, Field(gt=0, lt=1)]

Unlearn = Literal["ascent", "unlikelihood"]

Sign = Literal["batch", "sample"]


@countermeasure("recovery", "targeted integrity")
@validate_settings
def anti_backdoor_learning(
    *,
    gamma: NonNegative = 0.5,
    isolate: Part = 0.01,
    isolation: Part = 0.2,
    sign: Sign = "batch",
    unlearning: Part = 0.2,
    unlearning_rate: PositiveFloat = 0.1,
    unlearn: Unlearn = "unlikelihood",
) -> RobustTraining:
    """Isolates the samples that are learned first, trains on the others, and unlearns the isolated ones (ABL).

        1. descend sign(L − γ) L, L the mean ℓ of a batch, which holds the loss near γ, so that little is learned beside
           what is learned fast; D_b = the ⌊q n⌋ samples with the smallest ℓ
        2. descend mean ℓ over the others, D_c
        3. descend mean ℓ over D_c + mean −log(1 − p) over D_b, p the probability of a sample's label

    ℓ is the cross-entropy, −log p. The epochs of 1 and 2 together are those of the training, with its learning rates; 3
    comes on top, each step with a batch of D_c and one of D_b. Isolated samples have weight 0 in the result.

    Where nothing is poisoned, the easiest samples are isolated, and the model forgets what they show: that costs more
    accuracy than poison does. It is for a set that is known to bear a backdoor.

    Args:
        gamma: γ. 0 isolates by the plain loss, without ascent.
        isolate: q, below the share of poison rather than above it: clean samples that are isolated are forgotten.
        isolation: the share of the training's epochs for 1, rounded, at least one of them; at least one is left for 2.
            Early enough that poison alone has been learned.
        sign: "batch" as above, as in the authors' code; "sample" descends mean sign(ℓ − γ) ℓ, as their formula may be
            read: it lifts the loss of every poisoned sample to γ too, so that the smallest ones are not theirs.
        unlearning: epochs over D_c for 3 at most, as a share of the training's, rounded, at least one.
        unlearning_rate: learning rate of 3, over the first one of the training.
        unlearn: "unlikelihood" as above; "ascent" descends mean ℓ over D_c − mean ℓ over D_b in 3, until the mean ℓ
            over D_b is that of a guess, log(classes).

    Raises (when called):
        BatchError, LabelError, DataError: see `taster.defences.dataset.run_checks.check_run`.
        DefenceError: for a training that is not one of a net or has a single epoch; if `isolate` isolates no sample, or
            leaves a single class; if a step comes to no finite loss or gradient.

    Source: Li et al. 2021 (Anti-Backdoor Learning), Section 3: local gradient ascent (1), and global gradient ascent
        (3, "ascent"), whose end here is ours, as ascent has no bound. As in the authors' code there is training on D_c
        alone in between (2). After it the poison that was not isolated has been learned so well that ℓ over D_b is
        nearly 0 in small sets, and ascent has next to no gradient; hence "unlikelihood", the loss of Welleck et al.
        2020, whose gradient is largest there.
    """

    def train(run: TrainingRun) -> tuple[Classifier, Tensor]:
        samples, fit = check_run(run, _NAME), net_fit(run, _NAME)
        total = fit.settings.epochs
        if total < 2:
            raise DefenceError(f"{_NAME}: got a training of {total} epoch, wanted at least 2: to isolate, and after")
        count = part_of(isolate, len(samples))
        if count == 0:
            raise DefenceError(
                f"{_NAME}: got isolate {isolate} of {len(samples)} samples, which is none, wanted at least "
                f"{1 / len(samples):.2g}"
            )
        first = min(max(1, round(isolation * total)), total - 1)
        # What a net draws as it trains, by dropout say, follows the seed and leaves torch's own generator as it was.
        with seeded(run.seed, samples.x.device):
            draws = torch.Generator().manual_seed(run.seed)
            learner = fit.learner(loss=_around(gamma, sign))
            _train(fit, learner, samples, torch.ones(len(samples)), range(first), draws)
            kept = ~smallest(_losses(learner, samples, run.classes), count)
            weights = kept_weights(kept, samples.y, _NAME)
            learner = fit.learner(start=learner.view())
            _train(fit, learner, samples, weights, range(first, total), draws)
            learner = fit.learner(start=learner.view(), loss=_apart(unlearn))
            for group in learner.optimizer.param_groups:
                group["lr"] = unlearning_rate * fit.settings.learning_rate
            enough = math.log(run.classes) if unlearn == "ascent" else math.inf
            _unlearn(fit, learner, samples, kept, run.classes, max(1, round(unlearning * total)), draws, enough)
            learner.model.eval()
        return learner.view(), weights

    return RobustTraining(train)


def _around(gamma: float, sign: Sign) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of local gradient ascent, sign(ℓ − γ) ℓ, from outputs [n, classes] and labels [n]: of the mean ℓ of the
    batch, or the mean over its samples."""

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        losses = cross_entropy(outputs, y, reduction="mean" if sign == "batch" else "none")
        return ((losses.detach() - gamma).sign() * losses).mean()

    return loss


def _apart(by: Unlearn) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of unlearning, from outputs [n, classes] and labels [n], those of samples to unlearn as `_to_unlearn`
    makes them: mean ℓ over the others, − mean ℓ over these ("ascent") or + mean −log(1 − p) over them."""

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        bad = y < 0
        label = torch.where(bad, -1 - y, y)
        kept = cross_entropy(outputs[~bad], label[~bad])
        if by == "ascent":
            return kept - cross_entropy(outputs[bad], label[bad])
        return kept + reversed_cross_entropy(outputs[bad], label[bad]).mean()

    return loss


def _to_unlearn(samples: Batch) -> Batch:
    """The same with the labels −1 − y, which no class has: a loss is told by them what it is to raise."""
    return Batch(samples.x, -1 - samples.y)


def _train(
    fit: NetFit, learner: Learner, samples: Batch, weights: Tensor, epochs: range, draws: torch.Generator
) -> None:
    order = Epochs(weights, fit.settings.batch_size, draws, fit.settings.subsample)
    for epoch in epochs:
        check_steps(fit.train_epoch(learner, samples, order, epoch), _NAME, advice=_ADVICE)


def _unlearn(
    fit: NetFit,
    learner: Learner,
    samples: Batch,
    kept: Tensor,
    classes: int,
    epochs: int,
    draws: torch.Generator,
    enough: float,
) -> None:
    good = Epochs(kept.to(torch.float32), fit.settings.batch_size, draws)
    bad = Epochs((~kept).to(torch.float32), fit.settings.batch_size, draws)
    isolated, parts = samples.select(~kept), bad.endless()
    for _ in range(epochs):
        for places in good:
            if enough < math.inf and float(_losses(learner, isolated, classes).mean()) >= enough:
                return
            clean = samples.select(places.to(kept.device))
            poison = _to_unlearn(samples.select(next(parts).to(kept.device)))
            joined = Batch(torch.cat([clean.x, poison.x]), torch.cat([clean.y, poison.y]))
            check_steps([learner.step(joined)], _NAME, advice=_ADVICE)


def _losses(learner: Learner, samples: Batch, classes: int) -> Tensor:
    """The cross-entropy of each sample, [n], whatever the learner descends."""
    losses = cross_entropy(class_outputs(learner.view(), samples.x, classes), samples.y, reduction="none")
    return losses.nan_to_num(nan=torch.inf)
