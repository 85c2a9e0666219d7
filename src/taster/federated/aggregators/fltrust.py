"""FLTrust: updates count by how far they point where the server's own, on trusted samples, does."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.core.param_vectors import flatten
from taster.core.types import Batch
from taster.core.view import View
from taster.federated.aggregators.column_blocks import column_blocks, in_float64
from taster.federated.aggregators.pairwise import inner_products, squared_norms
from taster.utils.settings import validate_settings

_CLEAR = 0.1
"""What the trust in all clients has to come to for float32 products, off by some 1e-7 each, to do."""


@validate_settings
def fltrust(probe: Batch, *, samples: Annotated[int, Field(ge=1)] = 100) -> FLTrust:
    """Updates weighted by the cosine to the server's own gradient, and brought to its length.

        Σ tₙ ‖g₀‖ vₙ / ‖vₙ‖ / Σ tₙ, tₙ = max(0, cos(vₙ, g₀)); nothing where all tₙ are 0

    Args:
        probe: trusted samples, which g₀ is of.
        samples: of the probe that are used, the first so many.

    Source: Cao et al. 2021, Algorithm 2.
    """
    return FLTrust(Batch(probe.x[:samples], probe.y[:samples]))


class FLTrust:
    """The rule of `fltrust`: at a moment of the model it is a function of updates."""

    name = "fltrust"

    def __init__(self, probe: Batch) -> None:
        self._probe = probe

    def bind(self, view: View) -> TrustWeightedMean:
        """The rule with the server's gradient at this moment."""
        return TrustWeightedMean(flatten(view.loss_gradient(self._probe.x, self._probe.y)))

    def set_trusted_data(self, probe: Batch) -> None:
        """Takes up other trusted samples, as many."""
        count = len(self._probe)
        self._probe = Batch(probe.x[:count], probe.y[:count])


class TrustWeightedMean:
    """FLTrust with a given gradient g₀, [d]; weights that clients claim do not count."""

    def __init__(self, own: Tensor) -> None:
        self._own = own

    def __call__(self, values: Tensor, weights: Tensor) -> Tensor:  # noqa: ARG002 (the signature of a rule)
        """The aggregate, [d]."""
        tiny = torch.finfo(torch.float64).tiny
        length = torch.linalg.vector_norm(self._own, dtype=torch.float64).clamp_min(tiny)
        unit = self._own / length
        norms = squared_norms(values).sqrt().clamp_min(tiny)
        trust = (inner_products(values, lambda _, block: unit[block]) / norms).clamp_min(0)
        if not float(trust.sum()) > _CLEAR:
            trust = (_exact(values, self._own) / (norms * length)).clamp_min(0)
        shares = trust / trust.sum().clamp_min(tiny) * length / norms
        found: Tensor = shares.to(values.dtype) @ values
        return found


def _exact(values: Tensor, own: Tensor) -> Tensor:
    """Products of the rows with [d], [m], all in float64."""
    found = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    for part, block in zip(in_float64(values), column_blocks(values), strict=True):
        found.addmv_(part, own[block].double())
    return found
