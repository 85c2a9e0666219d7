"""Gradient shaping: no sample pulls at the model harder than a bound, and noise drowns what is left of few."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.client_gradients import ClientGradients
from taster.core.batch import Batch
from taster.core.epochs import Epochs
from taster.core.fitting import Classifier
from taster.core.guard import ScreenedBatch
from taster.core.param_vectors import unflatten
from taster.core.state import LearnerState
from taster.core.step import GradientFn
from taster.core.threat import countermeasure
from taster.core.types import Tensors
from taster.defences.dataset.net_epochs import net_fit, train_by_epochs
from taster.defences.dataset.run_checks import check_run
from taster.defences.dataset_defence import RobustTraining, TrainingRun
from taster.utils.setting_types import NonNegative, PositiveFloat
from taster.utils.settings import validate_settings

_NAME = "gradient_shaping"


@countermeasure("regularization", "indiscriminate availability", "targeted integrity")
@validate_settings
def gradient_shaping(*, max_norm: PositiveFloat = 1.0, noise: NonNegative = 0.0) -> RobustTraining:
    """Trains with the gradient of each sample clipped, and noise on their sum (DP-SGD).

        g = (Σᵢ gᵢ · min(1, C / ‖gᵢ‖) + σ C z) / b,   z standard normal, b the samples of the batch

    Batch norm normalises with its recorded statistics, as samples would otherwise reach each other's gradients; nothing
    updates these. Costs the gradient of every sample by itself.

    What is spent of privacy is told by `taster.defences.dataset.privacy.privacy_spent`.

    Args:
        max_norm: C, over all parameters together.
        noise: σ, over C. 0 clips alone.

    Raises (when called):
        BatchError, LabelError, DataError: see `taster.defences.dataset.run_checks.check_run`.
        DefenceError: for a training that is not one of a net, and if a step comes to no finite loss or gradient.

    Source: Abadi et al. 2016, Algorithm 1, in batches that differ by one sample at most; as a defence Hong et al. 2020
        (gradient shaping).
    """

    def train(run: TrainingRun) -> tuple[Classifier, None]:
        samples, fit = check_run(run, _NAME), net_fit(run, _NAME)
        draws = torch.Generator().manual_seed(run.seed)
        order = Epochs(torch.ones(len(samples)), fit.settings.batch_size, draws, fit.settings.subsample)
        shaped = shaped_gradient(max_norm, noise, draws)
        return train_by_epochs(fit, lambda: samples, order, _NAME, seed=run.seed, gradient=shaped), None

    return RobustTraining(train)


def shaped_gradient(max_norm: float, noise: float, draws: torch.Generator) -> GradientFn[Batch]:
    """How a step computes its gradient: (Σᵢ gᵢ min(1, C / ‖gᵢ‖) + σ C z) / b.

    Args:
        max_norm: C.
        noise: σ.
        draws: the noise is drawn from it.
    """
    each = ClientGradients()

    def gradient(screened: ScreenedBatch[Batch], state: LearnerState) -> tuple[Tensors, Tensor]:
        view, batch = state.view(), screened.batch
        values, _ = each(view, batch.x, batch.y, [1] * len(batch))
        total = clipped_sum(values, max_norm)
        if noise:
            drawn = torch.randn(len(total), generator=draws, device=draws.device, dtype=total.dtype)
            total = total + noise * max_norm * drawn.to(total.device)
        with torch.no_grad():
            loss = view.loss(batch)
        return unflatten(total / len(batch), view.trainable), loss

    return gradient


def clipped_sum(values: Tensor, max_norm: float) -> Tensor:
    """Σᵢ gᵢ · min(1, C / ‖gᵢ‖), [d].

    Args:
        values: g, [b, d].
        max_norm: C.
    """
    sizes = torch.linalg.vector_norm(values, dim=1).clamp_min(torch.finfo(values.dtype).tiny)
    total: Tensor = (max_norm / sizes).clamp_max(1.0) @ values
    return total
