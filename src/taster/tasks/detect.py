"""Which task trusted data are for, by name or by the shapes of outputs and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from taster.core.losses import AnyLoss, takes_classes
from taster.core.trusted_data import class_indices
from taster.core.types import Batch
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

_OF_NUMBERS = (
    functional.mse_loss,
    functional.l1_loss,
    functional.smooth_l1_loss,
    functional.huber_loss,
    functional.poisson_nll_loss,
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.PoissonNLLLoss,
)


def named_task(task: str | Task | None, stage: str) -> Task | None:
    """A task by its name.

    Raises:
        SettingError: for another name.
    """
    if not isinstance(task, str):
        return task
    if task not in TASKS:
        raise SettingError(f"{stage}: task: got {task!r}, wanted one of {', '.join(TASKS)}, or a Task")
    return TASKS[task]()


def seen_task(
    output: Tensor, y: Tensor, batch: Batch, loss: AnyLoss | None, own_loss: Tensor | None, stage: str
) -> Task:
    """The task that outputs and labels look like.

    Args:
        output: predictions for all trusted samples, or the first of them.
        y: their labels.
        batch: they themselves.
        loss: what the model is trained by; numbers are told from answers of yes or no by it.
        own_loss: the loss that the model itself has computed for them, which tells whether a language model's labels
            are shifted.
        stage: for messages.

    Raises:
        ModelError: when they look like none.
        LabelError: for soft labels of a loss of classes.
    """
    if loss is not None and takes_classes(loss):
        class_indices(y, stage, ignored=True)
    whole = not (y.is_floating_point() or y.is_complex())
    as_many = output.numel() == y.numel() and len(output) == len(y) and not y.is_complex()
    yes_or_no = as_many and bool(((y == 0) | (y == 1)).all()) and not _is_of_numbers(loss)
    if yes_or_no:
        return Binary() if output.numel() == len(output) else MultiLabel()
    if as_many and _is_of_numbers(loss):
        return Regression()
    sequence = output.dim() == 3 and y.dim() == 2 and output.shape[:2] == y.shape and whole
    if whole and output.dim() == y.dim() + 1 and output.shape[2:] == y.shape[1:] and not (sequence and batch.y is None):
        return Classification() if y.dim() == 1 else Segmentation()
    if sequence:
        return _language_task(output, y, own_loss, stage)
    if as_many and not whole:
        return Regression()
    raise ModelError(
        f"{stage}: got outputs {list(output.shape)} for labels {list(y.shape)} of {y.dtype}, from which no task can be "
        f"told; wanted task= one of {', '.join(TASKS)}, or evaluate=lambda model: ... with one number a sample"
    )


def _language_task(output: Tensor, y: Tensor, own_loss: Tensor | None, stage: str) -> Task:
    if own_loss is None:
        return Tokens()
    found = {}
    for shift in (False, True):
        labels, logits = (y[:, 1:], output[:, :-1]) if shift else (y, output)
        if bool((labels >= 0).any()):
            # Mean over all tokens, as the models compute it.
            value = functional.cross_entropy(logits.flatten(0, 1), labels.flatten().clamp(min=-100), ignore_index=-100)
            found[shift] = abs(float(value) - float(own_loss))
    if not found or min(found.values()) > 0.01 * max(1.0, float(own_loss)):
        raise ModelError(
            f"{stage}: got a language model whose own loss is no cross-entropy of its outputs and labels, so that it "
            'cannot be told which labels they predict; wanted task="tokens" for those of the same place, '
            '"next_tokens" for those of the next'
        )
    return Tokens(shift=min(found, key=lambda shift: found[shift]))


def _is_of_numbers(loss: AnyLoss | None) -> bool:
    while isinstance(loss, partial):
        loss = loss.func
    return any(loss is known or type(loss) is known for known in _OF_NUMBERS)
