"""What an ensemble predicts, and how much poison each prediction withstands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from taster.errors import BatchError


@dataclass(frozen=True, eq=False)
class CertifiedPrediction:
    """Predictions with a certificate each.

    Attributes:
        labels: int64 [n].
        radius: int64 [n]. No poisoning of at most this size changes the label; what is counted, the ensemble's maker
            says. The certificate holds for the label that was predicted, right or wrong.
    """

    labels: Tensor
    radius: Tensor

    def certified_accuracy(self, y: Tensor, budgets: Sequence[int]) -> list[float]:
        """The share of samples, in percent, that are predicted right whatever a poisoning of that size does.

        Args:
            y: true labels [n].
            budgets: sizes of the poisoning; 0 gives the accuracy.

        Raises:
            BatchError: if there are no labels, or not one for each prediction.
        """
        robust = self._right_radius(y)
        return [100 * float((robust >= budget).double().mean()) for budget in budgets]

    def median_radius(self, y: Tensor) -> int:
        """The largest size of a poisoning under which at least half of the samples stay right; -1 if there is none.

        Args:
            y: true labels [n].

        Raises:
            BatchError: as in `certified_accuracy`.

        Source: Levine and Feizi 2021 ("median certified robustness").
        """
        robust = self._right_radius(y).sort(descending=True).values
        return int(robust[(len(robust) + 1) // 2 - 1])

    def _right_radius(self, y: Tensor) -> Tensor:
        """The radius where the prediction is right, -1 where it is wrong."""
        if y.shape != self.labels.shape or len(y) == 0:
            raise BatchError(f"y: got {list(y.shape)}, wanted the true labels [{len(self.labels)}], at least one")
        return self.radius.where(self.labels == y.to(self.labels.device), -1)
