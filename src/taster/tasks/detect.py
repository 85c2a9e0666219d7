"""Which task trusted data are for, by name or by the shapes of outputs and labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from taster.core.losses import AnyLoss, function_of, takes_classes, takes_numbers
from taster.core.trusted_data import class_indices
from taster.errors import ModelError, SettingError
from taster.tasks.base import Task
from taster.tasks.classification import Binary, Classification, MultiLabel
from taster.tasks.dense import Segmentation, Tokens
from taster.tasks.ranking import Ranking
from taster.tasks.regression import Regression

TASKS: Mapping[str, Callable[[], Task]] = {
    "classification": Classification,
    "binary": Binary,
    "multilabel": MultiLabel,
    "segmentation": Segmentation,
    "tokens": Tokens,
    "next_tokens": partial(Tokens, shift=True),
    "regression": Regression,
    "ranking": Ranking,
}
"""What `task=` takes."""

_SAME_LOSS = 1e-3
"""Relative difference up to which two losses are the same one, computed in other ways."""


def named_task(task: str | Task | None, stage: str) -> Task | None:
    """A task by its name.

    Raises:
        SettingError: for another name.
    """
    if task is None or isinstance(task, Task):
        return task
    if not isinstance(task, str) or task not in TASKS:
        raise SettingError(f"{stage}: task: got {task!r}, wanted one of {', '.join(TASKS)}, or a Task")
    return TASKS[task]()


def seen_task(
    output: Tensor,
    y: Tensor,
    loss: AnyLoss | None,
    stage: str,
    *,
    mean_loss: Tensor | None = None,
    every_label: Tensor | None = None,
) -> Task:
    """The task that outputs and labels look like.

    Args:
        output: predictions for all trusted samples, or the first of them.
        y: their labels.
        loss: what the model is trained by; numbers are told from answers of yes or no by it.
        stage: for messages.
        mean_loss: the value of the training loss for them, which tells which dimension of an output [n, a, b] holds the
            classes, and whether a language model's labels are shifted.
        every_label: the labels of all samples, where `y` is those of the first.

    Raises:
        ModelError: when they look like none.
        LabelError: for soft labels of a loss of classes.
    """
    if loss is not None and takes_classes(loss):
        class_indices(y, stage, ignored=True)
    whole = not (y.is_floating_point() or y.is_complex())
    as_many = output.numel() == y.numel() and len(output) == len(y) and not y.is_complex()
    labels = y if every_label is None else every_label
    if as_many and _is_of_rates(loss):
        raise ModelError(
            f"{stage}: got a model of rates (Poisson loss), whose outputs are no predictions of the targets themselves;"
            " wanted metric_gate(probe, metric, tolerance=...) or evaluate="
        )
    if as_many and takes_numbers(loss):
        return Regression()
    if as_many and bool(((labels == 0) | (labels == 1)).all()):
        return (Binary() if output.numel() == len(output) else MultiLabel()).trained_by(loss)
    if whole and output.dim() == 3 and y.dim() == 2:
        return _sequence_task(output, y, mean_loss, stage)
    if whole and _places_last(output, y):
        return Classification() if y.dim() == 1 else Segmentation()
    if as_many and not whole:
        return Regression()
    raise _unknown(output, y, stage)


def _places_last(output: Tensor, y: Tensor) -> bool:
    """Whether outputs are [n, classes, ...] for labels [n, ...]."""
    return output.dim() == y.dim() + 1 and output.shape[2:] == y.shape[1:]


def _sequence_task(output: Tensor, y: Tensor, mean_loss: Tensor | None, stage: str) -> Task:
    """For labels [n, length]: classes first or last, labels of the same place or the next; where there is a choice, the
    one whose cross-entropy is the training loss."""
    choices: dict[str, Task] = {}
    if _places_last(output, y):
        choices["segmentation"] = Segmentation()
    if output.shape[:2] == y.shape:
        choices["tokens"] = Tokens()
        if y.shape[1] > 1 and bool((y[:, 1:] >= 0).any()):
            choices["next_tokens"] = Tokens(shift=True)
    if not choices:
        raise _unknown(output, y, stage)
    if mean_loss is None and "tokens" in choices and "segmentation" not in choices:
        return choices["tokens"]
    if len(choices) == 1:
        return next(iter(choices.values()))
    loss = math.nan if mean_loss is None else float(mean_loss)
    told = "no loss that is known" if mean_loss is None else f"a loss of {loss:.4g}"
    off = {name: abs(_cross_entropy(name, output, y) - loss) for name in choices}
    best, second = sorted(off, key=lambda name: off[name])[:2]
    if not (off[best] <= _SAME_LOSS * max(1.0, abs(loss)) and off[best] < off[second] / 2):
        raise ModelError(
            f"{stage}: got outputs {list(output.shape)} for labels {list(y.shape)} and {told}, which is the "
            f"cross-entropy of none of {', '.join(choices)}, or of several, so that it cannot be told which labels "
            'the outputs predict; wanted task="tokens" for those of the same place, "next_tokens" for those of the '
            'next, or "segmentation" for outputs [n, classes, length]'
        )
    return choices[best]


def _cross_entropy(task: str, output: Tensor, y: Tensor) -> float:
    """The mean over all places that count, as the models and torch compute it."""
    logits = output if task == "segmentation" else output.transpose(1, 2)
    if task == "next_tokens":
        logits, y = logits[:, :, :-1], y[:, 1:]
    if int(y.max()) >= logits.shape[1]:
        return float("inf")
    return float(functional.cross_entropy(logits, y.clamp(min=-100).where(y >= 0, -100)))


def _unknown(output: Tensor, y: Tensor, stage: str) -> ModelError:
    return ModelError(
        f"{stage}: got outputs {list(output.shape)} for labels {list(y.shape)} of {y.dtype}, from which no task can be "
        f"told; wanted task= one of {', '.join(TASKS)}, or evaluate=lambda model: ... with one number a sample"
    )


def _is_of_rates(loss: AnyLoss | None) -> bool:
    function = function_of(loss)
    return function is functional.poisson_nll_loss or isinstance(function, nn.PoissonNLLLoss)
