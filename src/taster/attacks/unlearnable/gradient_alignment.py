"""Gradient alignment: a step on the perturbed samples does what a step towards errors on the clean ones would."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.surrogate import loss_of
from taster.attacks.unlearnable.gradient_noise import GradientNoiseSettings, make_gradient_noise
from taster.attacks.unlearnable.set_noise import NoiseAttack, SetNoise, Slope, noise_attack
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.types import Tensors
from taster.core.view import View
from taster.derivatives import Derivatives, LossFn
from taster.perturbations.objectives import reversed_cross_entropy
from taster.utils.settings import validate_settings


@threat("indiscriminate", "availability", "white box", "individual", "bilevel", "before training")
@validate_settings
def gradient_alignment(
    derivatives: Derivatives | None = None,
    *,
    perturbation: PerturbationSettings = PerturbationSettings(),
    gradients: GradientNoiseSettings = GradientNoiseSettings(),
) -> NoiseAttack:
    """Noise that turns the gradient of training: max over ‖δ‖ ≤ ε of cos(∇_θ L(x + δ, y; θ), ∇_θ R(x, y; θ)).

    R = −log(1 − p_y(x; θ)) is the reversed cross-entropy: its descent makes a net err on the clean samples. Its
    gradient is taken over all protected samples at once, that of L over a batch of them, at the weights of a net that
    was trained on the clean samples.

    Args:
        derivatives: computes the derivatives. Default: `Derivatives()`.
        perturbation: see `taster.attacks.PerturbationSettings`; the share is of the training set.
        gradients: see `taster.attacks.unlearnable.gradient_noise.GradientNoiseSettings`.

    Raises (when it poisons):
        AttackError: for samples that are no finite floats, a share that is no sample, and the training of an estimator
            or one that diverges.

    Source: Fowl et al. 2021a ("Preventing unauthorized use of proprietary data: poisoning for secure dataset
        release"), after the gradient matching of Geiping et al. 2021.
    """

    def make(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
        computing = derivatives or Derivatives()

        def slope_of(view: View) -> Slope:
            wanted = mean_gradient(computing, _reversed_loss(view), view.trainable, noise.own)
            return computing.mixed(loss_of(view), view.trainable, [(1.0, wanted)], "global")

        make_gradient_noise(noise, knowledge, gradients, "gradient_alignment", slope_of)

    return noise_attack("gradient_alignment", perturbation, make)


def mean_gradient(derivatives: Derivatives, loss: LossFn, params: Tensors, samples: Batch, chunk: int = 256) -> Tensors:
    """The gradient of a loss, which is a mean over samples, by name, taken in chunks."""
    total = {name: torch.zeros_like(value) for name, value in params.items()}
    for places in torch.split(torch.arange(len(samples), device=samples.x.device), chunk):
        for name, value in derivatives.gradient(loss, params, samples.select(places)).items():
            total[name] += value * (len(places) / len(samples))
    return total


def _reversed_loss(view: View) -> LossFn:
    def loss(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return reversed_cross_entropy(view.forward(x, params=params), y).mean()

    return loss
