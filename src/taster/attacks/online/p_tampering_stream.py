"""p-tampering of a stream: some samples are others than they would be, all with a right label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from taster.attacks.crafting import model_to_craft_on
from taster.attacks.online_attack import Budget, OnlineAttack, SampleFn, sample_class
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall
from taster.scores.influence import FirstOrderInfluence
from taster.utils.setting_types import Count, ModelRef, PositiveCount
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "p-tampering",
    "stream step",
    note="With `victim_class` it is targeted, with `surrogate` grey box.",
)
@validate_settings
def p_tampering_stream(
    draw_validation: SampleFn,
    generator: torch.Generator,
    surrogates: Mapping[str, View] | None = None,
    *,
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1,
    choice: Literal["gain", "loss", "random"] = "gain",
    reset: bool = False,
    draws: PositiveCount = 10,
    any_class: bool = False,
    victim_class: Count | None = None,
    pool_size: PositiveCount = 100,
    validation_size: PositiveCount = 100,
    surrogate: ModelRef | None = None,
) -> OnlineAttack:
    """Replaces samples by own ones with a right label, chosen to raise the error, in the stream and in the trigger.

        "gain"         of some draws the one whose gradient opposes that of the validation loss most
        "loss"         the one with the highest loss
        "random"       the first draw: the control

    In the papers the gain is the expected error after the rest of the stream; here it is the change of the validation
    loss by one step of gradient descent on the sample, to first order, which needs no training. A random subset of each
    batch is replaced instead of each sample by a coin of its own, and the stream is the attacker's own samples in their
    places: nothing bounds how far one is from another but the range of the data.

    Args:
        draw_validation: draws for each batch the samples to choose from, and S_val, of which no sample is among them.
        generator: draws which samples are replaced, and by which.
        surrogates: the attacker's own models, by label.
        poison_fraction: p, the share of each batch that the attacker may replace.
        choice: how a sample is chosen.
        reset: whether the attacker can but take a sample away (p-resetting): it is replaced by a random one if it is
            worth less to him than the mean of the draws; with "random" by a coin.
        draws: samples that are drawn to choose from, for each place.
        any_class: whether a sample may be replaced by one of another class, with that one's own label, as in the
            papers. Otherwise the class stays, and the budget itself sees to right labels.
        victim_class: draw S_val from this class only, so that the harm falls on it.
        pool_size: own samples that all draws of a batch are made from.
        validation_size: number of samples in S_val, before `victim_class`.
        surrogate: model to choose by instead of the present one: an earlier one, by label or number of steps back, or
            the label of one of the attacker's own models.

    Raises (when called):
        AttackError: if the attacker has no sample of a class, or of the victim class.
        DataError: if he has fewer samples than `pool_size` and `validation_size` together.

    Source: Mahloujifar, Diochnos and Mahmoody 2018 ("Learning under p-tampering attacks"); the choices are taster's
        own.
    """
    budget = Budget(LpBall("linf", 1.0), poison_fraction, labels=any_class)

    def attack(clean: Batch, view: View) -> Batch:
        places = budget.draw_mask(len(clean), generator).nonzero().flatten().tolist()
        if not places:
            return clean
        own = draw_validation(pool_size + validation_size)
        pool, s_val = own.select(slice(0, pool_size)), own.select(slice(pool_size, None))
        by = model_to_craft_on(surrogate, surrogates or {}, view)
        s_val = sample_class(lambda _: s_val, victim_class)(validation_size)
        worth = _worth(choice, pool, s_val, by)
        own_worth = _worth(choice, clean, s_val, by) if reset and choice != "random" else None
        x, y = clean.x.clone(), clean.y.clone()
        for place in places:
            drawn = _draw(pool, None if any_class else int(clean.y[place]), draws, generator)
            if reset:
                kept = bool(torch.rand((), generator=generator, device=generator.device) < 0.5)
                if own_worth is not None:
                    kept = bool(own_worth[place] >= worth[drawn].mean())
                if kept:
                    continue
            at = int(drawn[0] if reset else drawn[worth[drawn].argmax()])
            x[place], y[place] = pool.x[at].to(x), pool.y[at].to(y)
        return Batch(x, y)

    return OnlineAttack(budget, accumulate=attack, trigger=attack)


def _worth(choice: str, samples: Batch, s_val: Batch, by: View) -> Tensor:
    """What each sample is worth to the attacker, [n]."""
    if choice == "gain":
        return FirstOrderInfluence(s_val)(samples, by).cpu()
    if choice == "loss":
        return cross_entropy(by.outputs(samples.x), samples.y, reduction="none").cpu()
    return torch.zeros(len(samples))


def _draw(pool: Batch, label: int | None, count: int, generator: torch.Generator) -> Tensor:
    """Places in the pool in a random order, [at most count].

    Raises:
        AttackError: if there is none of the class.
    """
    fitting = torch.arange(len(pool)) if label is None else (pool.y.cpu() == label).nonzero().flatten()
    if not len(fitting):
        raise AttackError(
            f"got no sample of class {label} among {len(pool)} of the attacker's own, wanted some: raise pool_size"
        )
    order = torch.randperm(len(fitting), generator=generator, device=generator.device).cpu()
    return fitting[order[:count]]
