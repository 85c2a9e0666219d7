"""What each iteration of a crafting would do to the model, for the report, which may look at the test set."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.attacks import CraftingTrace
from taster.attacks.unrolled_update import OneStepUpdate
from taster.core.batch import Batch
from taster.core.view import View
from taster.experiments.results import CraftingCourse, CraftingSummary

_FRAMES = 10
"""Iterations shown as pictures."""


def replay(forming: CraftingTrace, view: View, rate: float, test: Batch) -> CraftingCourse:
    """Test accuracy after one update on the poison of each iteration, beside the attacker's loss.

    Args:
        forming: the crafting, iteration by iteration.
        view: of the learner before the poison's step.
        rate: its learning rate.
        test: samples that the accuracy is measured on.
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


def summarize_replay(course: CraftingCourse) -> CraftingSummary:
    """Summarizes a crafting: iterations, seconds, the greatest loss and the least accuracy on the way."""
    return {
        "iterations": len(course["accuracy"]) - 1,
        "seconds": course["seconds"],
        "processor": course["processor"],
        "prepared": course["prepared"],
        "loss": max((loss for loss in course["loss"] if loss is not None), default=None),
        "accuracy": min(course["accuracy"]),
    }


def frames(forming: CraftingTrace, clean: Batch) -> Tensor:
    """Returns the first poisoned sample at iterations spread evenly over the crafting, [k, ...]."""
    last = len(forming.batches) - 1
    moved = (forming.batches[-1].y != clean.y) | (forming.batches[-1].x != clean.x).flatten(1).any(1)
    which = int(moved.int().argmax())
    shown = sorted({round(i * last / (_FRAMES - 1)) for i in range(_FRAMES)})
    return torch.stack([forming.batches[i].x[which] for i in shown]).cpu()
