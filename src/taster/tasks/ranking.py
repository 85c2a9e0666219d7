"""Rankings: whether what is relevant comes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from taster.core.types import Tensors
from taster.errors import LabelError, ModelError


class Ranking:
    """A score for each candidate of a query: outputs and relevances [n, candidates]. A query counts by its normalized
    discounted cumulative gain (Järvelin and Kekäläinen 2002), and by the softmax probability of what is relevant.
    Candidates of negative relevance are padding.
    """

    name = "ranking"
    words: ClassVar[Mapping[str, str]] = {"gain": "discounted gain", "probability": "probability of what is relevant"}

    def prepare(self, y: Tensor, stage: str) -> None:
        """There must be something relevant for each query."""
        empty = (~(y.reshape(len(y), -1) > 0).any(1)).nonzero().flatten().tolist()
        if empty:
            raise LabelError(
                f"{stage}: got {len(empty)} of {len(y)} trusted queries without a relevant candidate (the first has "
                f"index {empty[0]}), wanted one in each"
            )

    def check(self, output: Tensor, y: Tensor, stage: str) -> None:
        """There must be a score for each candidate."""
        if output.shape != y.shape or y.dim() != 2 or y.shape[1] < 2:
            raise ModelError(
                f"{stage}: got a model with outputs {list(output.shape)} for relevances {list(y.shape)}, wanted "
                "[n, candidates] of both"
            )

    def measure(self, output: Tensor, y: Tensor) -> Tensors:
        """Normalized discounted cumulative gain, and the probability of what is relevant."""
        scores = output.float().masked_fill(y < 0, -torch.inf)
        gains = torch.exp2(y.float().clamp(min=0)) - 1
        discount = 1 / torch.log2(torch.arange(2, y.shape[1] + 2, device=y.device, dtype=torch.float32))
        found = (gains.gather(1, scores.argsort(dim=1, descending=True, stable=True)) * discount).sum(1)
        best = (gains.sort(1, descending=True).values * discount).sum(1)
        relevant = y.float().clamp(min=0)
        own = (scores.softmax(1) * relevant).sum(1) / relevant.amax(1)
        return {"gain": found / best, "probability": own}

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Listwise cross-entropy."""
        relevant = y.float().clamp(min=0)
        logs = output.float().masked_fill(y < 0, -torch.inf).log_softmax(1).masked_fill(y < 0, 0.0)
        return -(logs * relevant / relevant.sum(1, keepdim=True)).sum(1)

    def classes(self, _: Tensor) -> Tensor | None:
        """None: there are none."""
        return None
