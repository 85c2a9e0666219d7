"""What a training with clipped and noisy gradients reveals of a single sample: differential privacy."""

from __future__ import annotations

import torch

from taster.core.epochs import Epochs
from taster.core.training_settings import TrainingSettings
from taster.errors import ExtraError, SettingError


def privacy_spent(settings: TrainingSettings, samples: int, noise: float, delta: float) -> float:
    """ε, so that the training by `gradient_shaping` is (ε, δ)-differentially private.

    Neighbouring sets differ by one sample that is there or not. The account is one of batches into which each sample
    comes independently with the probability batch size / samples (Poisson); batches that divide a shuffled set, as
    here, are commonly accounted for in that way, which is an approximation and no proof.

    Args:
        settings: of the training.
        samples: n, that it is made on.
        noise: σ, the noise multiplier.
        delta: δ, well under 1/n.

    Returns:
        ε; infinite without noise.

    Raises:
        SettingError: for fewer than one sample, a negative noise or δ outside of (0, 1).
        ExtraError: if dp-accounting is not installed.

    Source: Mironov 2017 (Rényi differential privacy), Abadi et al. 2016, by Google's dp-accounting.
    """
    if samples < 1 or noise < 0 or not 0 < delta < 1:
        raise SettingError(
            f"got samples {samples}, noise {noise} and delta {delta}, wanted at least 1, at least 0 and a number "
            "between 0 and 1"
        )
    try:
        import dp_accounting
        from dp_accounting.rdp import RdpAccountant
    except ImportError as error:
        raise ExtraError('privacy_spent needs dp-accounting, wanted pip install "taster[privacy]"') from error
    if noise == 0:
        return float("inf")
    order = Epochs(torch.ones(samples), settings.batch_size, torch.Generator(), settings.subsample)
    share = min(1.0, settings.batch_size / order.samples)
    steps = settings.epochs * order.batches
    event = dp_accounting.PoissonSampledDpEvent(share, dp_accounting.GaussianDpEvent(noise))
    return float(RdpAccountant().compose(event, steps).get_epsilon(delta))
