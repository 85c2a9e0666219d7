"""Attacks by a few changes of single values, and the search that tries each change before it is kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster.attacks.online_attack import Budget, OnlineAttack, SampleFn
from taster.attacks.poison_init import wrong_labels
from taster.core.batch import Batch
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.perturbations.edits import Edits
from taster.perturbations.pgd import LpBall

Change = Callable[[Batch, Batch, View], Batch]
"""From samples [m, ...] under the labels of their poison, S_val and the model: poison of the same shape."""


def edit_attack(
    change: Change,
    draw_validation: SampleFn,
    generator: torch.Generator,
    *,
    poison_fraction: float,
    edits: int,
    flip: bool,
    validation_size: int,
    check: Callable[[Batch], None] | None = None,
    derivatives: Derivatives | None = None,
) -> OnlineAttack:
    """An attack that changes a few values of some samples, in the stream and in the trigger alike.

    Args:
        change: makes the poison.
        draw_validation: draws S_val, once per batch that is poisoned.
        generator: draws which samples are poisoned, and wrong labels.
        poison_fraction: fraction of each batch.
        edits: values of a sample that may change.
        flip: whether poison has wrong labels.
        validation_size: of S_val.
        check: raises for a batch that is not of the kind that is changed.
        derivatives: what `change` differentiates by.
    """
    budget = Budget(LpBall("linf", 0.0), poison_fraction, labels=flip, edits=Edits(edits))

    def attack(clean: Batch, view: View) -> Batch:
        places = budget.draw_mask(len(clean), generator).nonzero().flatten().to(clean.x.device)
        if not len(places):
            return clean
        samples = clean.select(places)
        if flip:
            samples = Batch(samples.x, wrong_labels(samples.y, samples.x, view, generator, None))
        found = change(samples, draw_validation(validation_size), view)
        x, y = clean.x.clone(), clean.y.clone()
        x[places], y[places] = found.x, found.y
        return Batch(x, y)

    return OnlineAttack(budget, accumulate=attack, trigger=attack, derivatives=derivatives, check_samples=check)


def greedy_edits(
    samples: Batch,
    edits: int,
    options: Tensor,
    gains: Callable[[Batch], Tensor],
    worth: Callable[[Batch], Tensor],
    tries: int,
) -> Batch:
    """Changes values one after the other, in each sample that which is worth most, for as long as it is worth more.

    Args:
        samples: x [n, ...], seen as [n, d], and y [n].
        edits: at most so many values of each sample are changed, each once.
        options: what a value may become, [d, c], or [1, c] for all values alike.
        gains: an estimate of what each change is worth, [n, d, c].
        worth: what samples are worth, [n].
        tries: the likeliest changes, of which the best is taken.

    Returns:
        samples of the same shape, each worth at least what it was.
    """
    shape, values = samples.x.shape, samples.x[0].numel()
    options = options.expand(values, -1)
    c, rows = options.shape[1], torch.arange(len(samples), device=samples.x.device)
    x, best = samples.x.flatten(1).clone(), worth(samples)
    done = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    for _ in range(min(edits, values)):
        estimate = gains(Batch(x.reshape(shape), samples.y)).masked_fill(done[..., None], -torch.inf)
        likely = estimate.flatten(1).topk(min(tries, values * c)).indices
        before = x.clone()
        for place in likely.unbind(1):
            at, option = place // c, place % c
            tried = before.clone()
            tried[rows, at] = options[at, option].to(x.dtype)
            found = worth(Batch(tried.reshape(shape), samples.y))
            better = (found > best) & ~done[rows, at]
            x[better], best = tried[better], torch.where(better, found, best)
        done |= x != before
        if bool((x == before).all()):
            break
    return Batch(x.reshape(shape), samples.y)
