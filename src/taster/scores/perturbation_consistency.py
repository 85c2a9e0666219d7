"""Perturbation consistency (STRIP): predictions of triggered samples stay when other samples are blended in."""

from __future__ import annotations

from torch import Tensor

from taster.core.batch import Batch, check_tensors
from taster.core.trusted_data import check_trusted_data, check_trusted_range, trusted_outputs
from taster.core.view import View

_NAME = "perturbation_consistency"


class PerturbationConsistency:
    """s(x) = −1/K Σₖ H(p(y | (x + xₖ) / 2)), in nats: a `Score`.

    A trigger that is learned is answered whatever is blended in, so that the entropy H stays low.

    Args:
        overlays: trusted samples xₖ, all of which are blended in.

    Source: Gao et al. 2019 (STRIP), Eq. 4, with equal weights.
    """

    def __init__(self, overlays: Batch) -> None:
        self._overlays = check_tensors(check_trusted_data(overlays, _NAME), _NAME)

    def __call__(self, batch: Batch, view: View) -> Tensor:
        """[n], without a graph."""
        samples, overlays = check_tensors(batch, _NAME).x, self._overlays.x
        blends = (samples[:, None] + overlays[None]) / 2
        outputs = view.outputs(blends.flatten(0, 1))
        logs = outputs.log_softmax(1)
        entropy: Tensor = -(logs.exp() * logs).sum(1).reshape(len(samples), len(overlays)).mean(1)
        return -entropy

    def set_trusted_data(self, probe: Batch) -> None:
        """Replaces the overlays, by as many."""
        trusted = check_tensors(check_trusted_data(probe, _NAME), _NAME)
        self._overlays = trusted.select(slice(len(self._overlays)))

    def check_model(self, view: View) -> None:
        """Checks that the model takes the overlays."""
        check_trusted_range(self._overlays, view, _NAME)
        trusted_outputs(self._overlays, view, _NAME)
