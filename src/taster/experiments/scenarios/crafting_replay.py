"""What the model would be after each iteration of a crafting: for the report, which may look at the test set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from taster.attacks import CraftingTrace
from taster.attacks.unrolled_update import OneStepUpdate
from taster.core.types import Batch
from taster.core.view import View

_FRAMES = 10
"""Iterations shown as pictures."""


def replay(forming: CraftingTrace, view: View, rate: float, test: Batch) -> dict[str, Any]:
    """The course of a crafting: the attacker's loss, and the test accuracy after one update on each iteration.

    Args:
        forming: what the crafting went through.
        view: the learner that the poison is to be fed to.
        rate: its learning rate.
        test: samples that the accuracy is of.

    Returns:
        seconds, processor (seconds too) and prepared; loss and accuracy in %, a number for each iteration; the accuracy
        of the learner as it is under "untouched".
    """
    injection = OneStepUpdate(view, test, rate)
    return {
        "seconds": forming.seconds,
        "processor": forming.cpu_seconds,
        "prepared": forming.setup_seconds,
        "loss": [loss if abs(loss) < float("inf") else None for loss in forming.losses],
        "accuracy": [view.accuracy(test.x, test.y, params=injection.update(batch)) for batch in forming.batches],
        "untouched": view.accuracy(test.x, test.y),
    }


def summarize_replay(course: dict[str, Any]) -> dict[str, Any]:
    """The course in a few numbers: iterations, seconds, the greatest loss and the least accuracy on the way."""
    return {
        "iterations": len(course["accuracy"]) - 1,
        "seconds": course["seconds"],
        "processor": course["processor"],
        "prepared": course["prepared"],
        "loss": max((loss for loss in course["loss"] if loss is not None), default=None),
        "accuracy": min(course["accuracy"]),
    }


def frames(forming: CraftingTrace, clean: Batch) -> Tensor:
    """The first poisoned sample at iterations spread evenly over the crafting, [k, ...]."""
    last = len(forming.batches) - 1
    moved = (forming.batches[-1].y != clean.y) | (forming.batches[-1].x != clean.x).flatten(1).any(1)
    which = int(moved.int().argmax())
    shown = sorted({round(i * last / (_FRAMES - 1)) for i in range(_FRAMES)})
    return torch.stack([forming.batches[i].x[which] for i in shown]).cpu()
