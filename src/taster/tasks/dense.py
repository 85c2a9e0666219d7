"""Many predictions a sample: the pixels of an image, the tokens of a text. A sample counts by the share of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from taster.core.trusted_data import check_logits, class_indices
from taster.core.types import Tensors
from taster.errors import LabelError, ModelError
from taster.tasks.base import row_mean


class Segmentation:
    """A class for each pixel: outputs [n, classes, ...], labels [n, ...]. Negative labels count for nothing, nor does
    255 where there are fewer classes."""

    name = "segmentation"
    words: ClassVar[Mapping[str, str]] = {
        "correct": "share of right pixels",
        "probability": "probability of the true pixels",
    }

    def prepare(self, y: Tensor, stage: str) -> None:
        """Labels must be class indices, and each sample have a pixel that counts."""
        class_indices(y, stage, ignored=True)
        _check_counted(y >= 0, stage)

    def check(self, output: Tensor, y: Tensor, stage: str) -> None:
        """Outputs must have a place for every label."""
        if output.dim() == 3 and output.shape[:2] == y.shape != output.shape[::2]:
            raise ModelError(
                f"{stage}: got outputs {list(output.shape)} with the classes in the last place, wanted [n, classes, "
                'places], or task="tokens"'
            )
        fits = output.dim() == y.dim() + 1 and output.shape[2:] == y.shape[1:]
        classes = output.shape[1] if output.dim() > 1 else 0
        check_logits(output, y.where(self._counted(classes, y), 0), classes, stage, fits=fits)
        _check_counted(self._counted(classes, y), stage)

    def measure(self, output: Tensor, y: Tensor) -> Tensors:
        """The share of right pixels, and the mean probability of the true ones."""
        counted = self._counted(output.shape[1], y)
        return _shares(output, y, counted)

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy over the pixels that count."""
        counted = self._counted(output.shape[1], y)
        return row_mean(functional.cross_entropy(output, y.where(counted, 0), reduction="none"), counted)

    def classes(self, _: Tensor) -> Tensor | None:
        """None: an image has several."""
        return None

    @staticmethod
    def _counted(classes: int, y: Tensor) -> Tensor:
        return (y >= 0) & ((y != 255) | (classes > 255))


class Tokens:
    """A token for each place of a sequence: outputs [n, length, vocabulary], labels [n, length]. Negative labels (−100)
    count for nothing.

    Args:
        shift: whether the output at a place predicts the label of the next place, as causal language models do whose
            labels are their inputs; None for the labels' own place.
    """

    name = "tokens"
    words: ClassVar[Mapping[str, str]] = {
        "correct": "share of right tokens",
        "probability": "probability of the true tokens",
    }

    def __init__(self, *, shift: bool = False) -> None:
        self.shift = shift

    def prepare(self, y: Tensor, stage: str) -> None:
        """Labels must be class indices, and each sequence have one that counts."""
        class_indices(y, stage, ignored=True)
        if y.dim() != 2 or y.shape[1] < 1 + self.shift:
            raise LabelError(f"{stage}: got labels {list(y.shape)} for tokens, wanted [n, length]")
        _check_counted((y[:, 1:] if self.shift else y) >= 0, stage)

    def check(self, output: Tensor, y: Tensor, stage: str) -> None:
        """Outputs must have a place for every label."""
        fits = output.dim() == 3 and output.shape[:2] == y.shape
        check_logits(output, y, output.shape[-1], stage, fits=fits)

    def measure(self, output: Tensor, y: Tensor) -> Tensors:
        """The share of right tokens, and the mean probability of the true ones."""
        logits, labels = self._aligned(output, y)
        return _shares(logits, labels, labels >= 0)

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy over the tokens that count."""
        logits, labels = self._aligned(output, y)
        counted = labels >= 0
        return row_mean(functional.cross_entropy(logits, labels.clamp(min=0), reduction="none"), counted)

    def classes(self, _: Tensor) -> Tensor | None:
        """None: a sequence has several."""
        return None

    def _aligned(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.shift:
            output, y = output[:, :-1], y[:, 1:]
        return output.transpose(1, 2), y


def _shares(output: Tensor, y: Tensor, counted: Tensor) -> Tensors:
    labels = y.where(counted, 0)
    own = output.softmax(1).gather(1, labels[:, None]).squeeze(1)
    right = (output.argmax(1) == labels).to(own.dtype)
    return {"correct": row_mean(right, counted), "probability": row_mean(own, counted)}


def _check_counted(counted: Tensor, stage: str) -> None:
    empty = (~counted.reshape(len(counted), -1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise LabelError(
            f"{stage}: got {len(empty)} of {len(counted)} trusted samples whose labels are all ignored (the first has "
            f"index {empty[0]}), wanted at least one that counts in each"
        )
