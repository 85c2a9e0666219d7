"""TensorClog: samples whose gradient vanishes, so that training on them changes next to nothing."""

from __future__ import annotations

from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.surrogate import loss_of
from taster.attacks.unlearnable.gradient_noise import GradientNoiseSettings, make_gradient_noise
from taster.attacks.unlearnable.set_noise import NoiseAttack, SetNoise, Slope, noise_attack
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.utils.settings import validate_settings


@threat("indiscriminate", "availability", "white box", "individual", "bilevel", "before training")
@validate_settings
def tensor_clog(
    derivatives: Derivatives | None = None,
    *,
    perturbation: PerturbationSettings = PerturbationSettings(),
    gradients: GradientNoiseSettings = GradientNoiseSettings(surrogate_epochs=1),
) -> NoiseAttack:
    """Noise that makes the gradient of training short: min over ‖δ‖ ≤ ε of ‖∇_θ L(x + δ, y; θ)‖.

    For each batch, at the weights of a net that was trained on the clean samples: for an epoch by default, as
    gradients are short anyway at the end of a training. The paper also weighs how far the samples move, which is the
    budget's part here.

    Args:
        derivatives: computes the derivatives. Default: `Derivatives()`.
        perturbation: see `taster.attacks.PerturbationSettings`; the share is of the training set.
        gradients: see `taster.attacks.unlearnable.gradient_noise.GradientNoiseSettings`.

    Raises (when it poisons):
        AttackError: for samples that are no finite floats, a share that is no sample, and the training of an estimator
            or one that diverges.

    Source: Shen, Zhu and Ma 2019 ("TensorClog: an imperceptible poisoning attack on deep neural network applications").
    """

    def make(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
        computing = derivatives or Derivatives()
        make_gradient_noise(noise, knowledge, gradients, "tensor_clog", lambda view: shrinking_slope(view, computing))

    return noise_attack("tensor_clog", perturbation, make)


def shrinking_slope(view: View, derivatives: Derivatives) -> Slope:
    """−½ ∇ₓ ‖∇_θ L(x, y; θ)‖² of a batch, as a function of its samples and labels."""
    loss, params = loss_of(view), view.trainable

    def slope(x: Tensor, y: Tensor) -> Tensor:
        here = derivatives.gradient(loss, params, Batch(x, y))
        return derivatives.mixed(loss, params, [(-1.0, here)])(x, y)

    return slope
