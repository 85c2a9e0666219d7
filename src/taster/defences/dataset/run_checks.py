"""What a defence asks of its run before it computes anything, and what it gives back."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.core.batch import Batch, check_tensors
from taster.core.trusted_data import check_trusted_data
from taster.defences.dataset_defence import TrainingRun
from taster.defences.training.training_set import check_training_set
from taster.errors import DefenceError, LabelError

Share = Annotated[float, Field(gt=0, le=1)]
"""A share of the samples, as a fraction, above 0."""


def check_run(run: TrainingRun, name: str, *, numbers: bool = False) -> Batch:
    """The training set, after a look at it.

    Args:
        run: what a defence works with.
        name: of the defence, for messages.
        numbers: whether samples must be numbers that can be computed with, and no ids, of words say.

    Raises:
        BatchError: for samples and labels that are not one tensor each, not finite, or ids where numbers are needed.
        LabelError: for labels outside of the classes.
        DataError: for a set in which all labels are alike.
    """
    check_tensors(run.samples, name)
    check_training_set(run.samples.x, run.samples.y, run.classes, ids=not numbers)
    return run.samples


def check_images(run: TrainingRun, name: str) -> Batch:
    """The training set, after a look at it, where its samples are images within 0 to 1.

    Args:
        run: what a defence works with.
        name: of the defence, for messages.

    Raises:
        BatchError, LabelError, DataError: see `check_run`.
        DefenceError: unless samples are floating point [n, 1 or 3, h, w] within 0 to 1.
    """
    samples = check_run(run, name)
    x = samples.x
    if x.dim() != 4 or x.shape[1] not in (1, 3) or not x.is_floating_point():
        raise DefenceError(f"{name}: got samples {list(x.shape[1:])} of {x.dtype}, wanted images [1 or 3, h, w]")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise DefenceError(f"{name}: got pixels from {low:g} to {high:g}, wanted 0 to 1: normalize inside the model")
    return samples


def check_trusted(run: TrainingRun, name: str, *, least: int) -> Batch:
    """The trusted samples, on the device of the training set, after a look at them.

    Args:
        run: what a defence works with.
        name: of the defence, for messages.
        least: how many it needs.

    Raises:
        BatchError: for samples and labels that are not one tensor each, or not finite; for fewer than needed.
        LabelError: for labels outside of the classes.
        DefenceError: for samples of another shape than those of the training set.
    """
    trusted = check_trusted_data(run.trusted, name, classes=True, min_samples=least)
    check_tensors(trusted, name)
    if trusted.x.shape[1:] != run.samples.x.shape[1:]:
        raise DefenceError(
            f"{name}: got trusted samples {list(trusted.x.shape[1:])}, wanted {list(run.samples.x.shape[1:])} as in "
            "the training set"
        )
    if int(trusted.y.max()) >= run.classes:
        raise LabelError(f"{name}: got the trusted label {int(trusted.y.max())}, wanted 0 to {run.classes - 1}")
    return trusted.to(run.samples.x.device)


def kept_weights(kept: Tensor, y: Tensor, name: str) -> Tensor:
    """Weights of 1 for kept samples and 0 for the others, float32 [n].

    Args:
        kept: bool [n].
        y: labels [n].
        name: of the defence, for messages.

    Raises:
        DefenceError: if fewer than two classes are left.
    """
    left = torch.unique(y[kept])
    if len(left) < 2:
        raise DefenceError(
            f"{name}: got {int(kept.sum())} of {len(y)} samples left, of {len(left)} class(es), wanted at least two "
            "classes: have it remove less"
        )
    return kept.to(torch.float32)


def smallest(values: Tensor, count: int) -> Tensor:
    """Which are the smallest, bool [n]; of equal ones those that come first.

    Args:
        values: [n], without NaN.
        count: how many.
    """
    chosen = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    chosen[values.argsort(stable=True)[:count]] = True
    return chosen


def part_of(share: float, samples: int) -> int:
    """How many samples a share is, rounded down."""
    return int(share * samples + 1e-9)
