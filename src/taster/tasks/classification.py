"""Classes: one of several, yes or no, several at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from taster.core.losses import AnyLoss, function_of
from taster.core.trusted_data import check_logits, class_indices
from taster.core.types import Tensors
from taster.errors import LabelError, ModelError
from taster.tasks.base import row_mean


class Classification:
    """One of several classes: outputs [n, classes], labels [n]."""

    name = "classification"
    words: ClassVar[Mapping[str, str]] = {"correct": "accuracy", "probability": "probability of the true class"}

    def prepare(self, y: Tensor, stage: str) -> None:
        """Labels must be class indices."""
        class_indices(y, stage)

    def check(self, output: Tensor, y: Tensor, stage: str) -> None:
        """Outputs must be logits with a place for every label."""
        check_logits(output, y, output.shape[-1], stage, fits=output.dim() == 2 and y.dim() == 1)

    def measure(self, output: Tensor, y: Tensor) -> Tensors:
        """Whether each sample is classified correctly, and the probability of its class."""
        own = output.softmax(1).gather(1, y[:, None]).squeeze(1)
        return {"correct": output.argmax(1) == y, "probability": own}

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy."""
        return functional.cross_entropy(output, y, reduction="none")

    def classes(self, y: Tensor) -> Tensor | None:
        """The labels."""
        return y


class Binary:
    """Yes or no by one logit: outputs [n] or [n, 1], labels of 0 and 1, [n] or [n, 1].

    Args:
        probabilities: whether outputs are probabilities and no logits; seen by itself where the loss is torch's
            `BCELoss` or `binary_cross_entropy`.
    """

    name = "binary"
    words: ClassVar[Mapping[str, str]] = {"correct": "accuracy", "probability": "probability of the true class"}

    def __init__(self, *, probabilities: bool = False) -> None:
        self.probabilities = probabilities

    def trained_by(self, loss: AnyLoss | None) -> Binary:
        """This task, of probabilities where the loss takes those."""
        return Binary(probabilities=self.probabilities or takes_probabilities(loss))

    def prepare(self, y: Tensor, stage: str) -> None:
        """Labels must be 0 and 1."""
        _check_yes_or_no(y, stage)

    def check(self, output: Tensor, y: Tensor, stage: str) -> None:
        """There must be as many outputs as labels."""
        _check_as_many(output, y, stage)
        if output.numel() != len(output):
            raise ModelError(
                f"{stage}: got a model with outputs {list(output.shape)}, wanted one logit a sample, or "
                'task="multilabel"'
            )

    def measure(self, output: Tensor, y: Tensor) -> Tensors:
        """Whether each sample is classified correctly, and the probability of its class."""
        logits, labels = _logits(output, self.probabilities).reshape(-1), y.reshape(-1) > 0.5
        return {"correct": (logits > 0) == labels, "probability": _probability(logits, labels)}

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Binary cross-entropy."""
        logits = _logits(output, self.probabilities)
        return functional.binary_cross_entropy_with_logits(
            logits.reshape(-1), y.reshape(-1).to(output.dtype), reduction="none"
        )

    def classes(self, y: Tensor) -> Tensor | None:
        """The labels."""
        return (y.reshape(-1) > 0.5).long()


class MultiLabel:
    """Several answers of yes or no a sample, each by its logit: outputs and labels [n, ...] of the same shape. A sample
    counts by the share of its answers.

    Args:
        probabilities: as in `Binary`.
    """

    name = "multilabel"
    words: ClassVar[Mapping[str, str]] = {
        "correct": "share of right answers",
        "probability": "probability of the true answers",
    }

    def __init__(self, *, probabilities: bool = False) -> None:
        self.probabilities = probabilities

    def trained_by(self, loss: AnyLoss | None) -> MultiLabel:
        """This task, of probabilities where the loss takes those."""
        return MultiLabel(probabilities=self.probabilities or takes_probabilities(loss))

    def prepare(self, y: Tensor, stage: str) -> None:
        """Labels must be 0 and 1."""
        _check_yes_or_no(y, stage)

    def check(self, output: Tensor, y: Tensor, stage: str) -> None:
        """Outputs and labels must have the same shape."""
        _check_as_many(output, y, stage)

    def measure(self, output: Tensor, y: Tensor) -> Tensors:
        """The share of right answers, and the mean probability of the true ones."""
        logits, labels = _logits(output, self.probabilities), y.reshape(output.shape) > 0.5
        return {
            "correct": row_mean(((logits > 0) == labels).to(output.dtype)),
            "probability": row_mean(_probability(logits, labels)),
        }

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Binary cross-entropy."""
        target = y.reshape(output.shape).to(output.dtype)
        logits = _logits(output, self.probabilities)
        return row_mean(functional.binary_cross_entropy_with_logits(logits, target, reduction="none"))

    def classes(self, _: Tensor) -> Tensor | None:
        """None: a sample has several."""
        return None


def takes_probabilities(loss: AnyLoss | None) -> bool:
    """Whether a loss is known to be one of probabilities, and not of logits."""
    function = function_of(loss)
    return function is functional.binary_cross_entropy or isinstance(function, nn.BCELoss)


def _logits(output: Tensor, probabilities: bool) -> Tensor:
    return output.double().logit(eps=1e-12).to(output.dtype) if probabilities else output


def _probability(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.where(labels, logits, -logits).sigmoid()


def _check_as_many(output: Tensor, y: Tensor, stage: str) -> None:
    if output.numel() != y.numel() or len(output) != len(y):
        raise ModelError(
            f"{stage}: got a model with outputs {list(output.shape)} for labels {list(y.shape)}, wanted one logit for "
            "each label"
        )


def _check_yes_or_no(y: Tensor, stage: str) -> None:
    if not bool(((y == 0) | (y == 1)).all()):
        raise LabelError(f"{stage}: got trusted labels other than 0 and 1, wanted yes or no for each logit")
