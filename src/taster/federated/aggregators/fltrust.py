"""FLTrust: updates are weighted by their cosine to the server's own gradient on trusted samples."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.core.batch import Batch
from taster.core.param_vectors import flatten
from taster.core.threat import countermeasure
from taster.core.view import View
from taster.stats.column_blocks import column_blocks, in_float64
from taster.stats.pairwise import inner_products, squared_norms
from taster.utils.settings import validate_settings

_CLEAR = 0.1
"""The least total trust for which float32 products, off by some 1e-7 each, are accurate enough."""


@countermeasure(
    "test",
    "indiscriminate availability",
    note=(
        "Each update is tested against the server's own, and weighted by the result; it could be counted as "
        "sanitization."
    ),
)
@validate_settings
def fltrust(probe: Batch, *, samples: Annotated[int, Field(ge=1)] = 100) -> FLTrust:
    """Updates weighted by their cosine to the server's own gradient and rescaled to its length.

        Σ tₙ ‖g₀‖ vₙ / ‖vₙ‖ / Σ tₙ, tₙ = max(0, cos(vₙ, g₀)); 0 where all tₙ are 0

    Args:
        probe: trusted samples, on which g₀ is computed.
        samples: how many of the probe are used, from its beginning.

    Source: Cao et al. 2021, Algorithm 2.
    """
    return FLTrust(probe.select(slice(samples)))


class FLTrust:
    """The rule of `fltrust`; `bind` makes it a function of updates for the present model."""

    name = "fltrust"

    def __init__(self, probe: Batch) -> None:
        self._probe = probe

    def bind(self, view: View) -> TrustWeightedMean:
        """The rule with the server's gradient at the present model."""
        return TrustWeightedMean(flatten(view.loss_gradient(self._probe)))

    def set_trusted_data(self, probe: Batch) -> None:
        """Replaces the trusted samples; as many of the new ones are used."""
        count = len(self._probe)
        self._probe = probe.select(slice(count))


class TrustWeightedMean:
    """FLTrust with a given server gradient g₀, [d]; the weights that clients claim are ignored."""

    def __init__(self, own: Tensor) -> None:
        self._own = own

    def __call__(self, values: Tensor, weights: Tensor) -> Tensor:  # noqa: ARG002 (an AggregationFn)
        """The aggregate, [d]."""
        tiny = torch.finfo(torch.float64).tiny
        length = torch.linalg.vector_norm(self._own, dtype=torch.float64).clamp_min(tiny)
        unit = self._own / length
        norms = squared_norms(values).sqrt().clamp_min(tiny)
        trust = (inner_products(values, lambda _, block: unit[block]) / norms).clamp_min(0)
        if not float(trust.sum()) > _CLEAR:
            trust = (_products_in_float64(values, self._own) / (norms * length)).clamp_min(0)
        shares = trust / trust.sum().clamp_min(tiny) * length / norms
        found: Tensor = shares.to(values.dtype) @ values
        return found


def _products_in_float64(values: Tensor, own: Tensor) -> Tensor:
    """Inner products of the rows with [d], [m], in float64 throughout."""
    found = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    for part, block in zip(in_float64(values), column_blocks(values), strict=True):
        found.addmv_(part, own[block].double())
    return found
