"""Five methods of adversarial training as corrections: each moves every sample down a loss of its own.

Zhu et al. 2023, Table 10, compare with them and do not say how a correction is made of each. Here each is the reverse
generation of adversarial samples, x̃ = argmin over x' in B(x, ε) of L(x'), with the method's loss as L.
"""

from __future__ import annotations

from torch import Tensor

from taster.core.guard import Guard
from taster.core.threat import countermeasure
from taster.defences.corrections.loss_descent import Correction, LossDescent
from taster.perturbations.objectives import SampleLoss, cross_entropy_per_sample, margin, mart_loss, trades_loss
from taster.perturbations.pgd import LpBall, Norm
from taster.utils.setting_types import Count, NonNegative, PositiveCount, PositiveFloat
from taster.utils.settings import validate_settings


def _correct_all(
    name: str,
    loss: SampleLoss,
    epsilon: float,
    norm: Norm,
    steps: int,
    step_size: float,
    patience: int | None = None,
) -> Guard:
    """The guard that moves every sample down a loss."""
    return Guard(screens=[Correction(name, LossDescent(LpBall(norm, epsilon), steps, step_size, loss), patience)])


@countermeasure("sanitization", "indiscriminate availability", note="It changes samples and removes none.")
@validate_settings
def adversarial_training_correction(
    *,
    epsilon: NonNegative = 0.2,
    norm: Norm = "linf",
    steps: PositiveCount = 10,
    step_size: PositiveFloat = 0.02,
) -> Guard:
    """Corrects every sample by reverse adversarial generation: steps that descend its cross-entropy, within a ball.

        L(x') = CE(f(x'), y)

    Args:
        epsilon: ε, in the units of the data.
        norm: of the ball.
        steps: PGD steps.
        step_size: of each, in the units of the data.

    Source: Tao et al. 2021; as "AT" in Zhu et al. 2023, Table 1, whose code's constants are the defaults.
    """
    return _correct_all("adversarial_training_correction", cross_entropy_per_sample, epsilon, norm, steps, step_size)


@countermeasure("sanitization", "indiscriminate availability", note="It changes samples and removes none.")
@validate_settings
def trades_correction(
    *,
    kl_weight: NonNegative = 6.0,
    epsilon: NonNegative = 0.2,
    norm: Norm = "linf",
    steps: PositiveCount = 10,
    step_size: PositiveFloat = 0.02,
) -> Guard:
    """Corrects every sample by steps that descend the loss of TRADES: lower, and close to the initial prediction.

        L(x') = CE(f(x'), y) + β KL(f(x) ‖ f(x'))

    TRADES takes the cross-entropy of the clean sample, which is unknown here; that of the moved sample is lowered.

    Args:
        kl_weight: β; 6 as in TRADES.
        epsilon: ε, in the units of the data.
        norm: of the ball.
        steps: PGD steps.
        step_size: of each, in the units of the data.

    Source: Zhang et al. 2019, Eq. 5; as a correction in Zhu et al. 2023, Table 10.
    """
    return _correct_all("trades_correction", trades_loss(kl_weight), epsilon, norm, steps, step_size)


@countermeasure("sanitization", "indiscriminate availability", note="It changes samples and removes none.")
@validate_settings
def mart_correction(
    *,
    kl_weight: NonNegative = 5.0,
    epsilon: NonNegative = 0.2,
    norm: Norm = "linf",
    steps: PositiveCount = 10,
    step_size: PositiveFloat = 0.02,
) -> Guard:
    """Corrects every sample by steps that descend the loss of MART: most for samples that the model is unsure of.

        L(x') = BCE(f(x'), y) + λ KL(f(x) ‖ f(x')) · (1 − p_y(x))

    Args:
        kl_weight: λ; 5 as in MART.
        epsilon: ε, in the units of the data.
        norm: of the ball.
        steps: PGD steps.
        step_size: of each, in the units of the data.

    Source: Wang et al. 2020, Eq. 10; as a correction in Zhu et al. 2023, Table 10.
    """
    return _correct_all("mart_correction", mart_loss(kl_weight), epsilon, norm, steps, step_size)


@countermeasure("sanitization", "indiscriminate availability", note="It changes samples and removes none.")
@validate_settings
def mma_correction(
    *,
    epsilon: NonNegative = 0.2,
    norm: Norm = "linf",
    steps: PositiveCount = 10,
    step_size: PositiveFloat = 0.02,
) -> Guard:
    """Corrects every sample by steps that descend the logit margin of MMA (Zhu et al. call it "MMD").

        L(x') = max over j ≠ y of fⱼ(x') − f_y(x')

    MMA's soft margin is not used: cross-entropy is log(1 + exp) of it, so steps along signs would be those of
    `adversarial_training_correction`.

    Args:
        epsilon: ε, in the units of the data.
        norm: of the ball.
        steps: PGD steps.
        step_size: of each, in the units of the data.

    Source: Ding et al. 2020, Section 2.3; as a correction in Zhu et al. 2023, Table 10.
    """
    return _correct_all("mma_correction", _margin, epsilon, norm, steps, step_size)


@countermeasure("sanitization", "indiscriminate availability", note="It changes samples and removes none.")
@validate_settings
def fat_correction(
    *,
    patience: Count = 1,
    epsilon: NonNegative = 0.2,
    norm: Norm = "linf",
    steps: PositiveCount = 10,
    step_size: PositiveFloat = 0.02,
) -> Guard:
    """Corrects every sample, and stops each some steps after the model classifies it correctly.

        L(x') = CE(f(x'), y), for at most τ more steps (and at least one in all) once argmax f(x') = y

    FAT stops its search for an adversarial sample τ steps after the model errs; in reverse it stops τ steps after the
    model is right.

    Args:
        patience: τ. The first step is always made.
        epsilon: ε, in the units of the data.
        norm: of the ball.
        steps: the maximum number of PGD steps.
        step_size: of each, in the units of the data.

    Source: Zhang et al. 2020 ("Attacks which do not kill training make adversarial learning stronger"), Algorithm 1; as
        a correction in Zhu et al. 2023, Table 10.
    """
    return _correct_all("fat_correction", cross_entropy_per_sample, epsilon, norm, steps, step_size, patience)


def _margin(logits: Tensor, y: Tensor, reference: Tensor) -> Tensor:
    return margin(logits, y)
