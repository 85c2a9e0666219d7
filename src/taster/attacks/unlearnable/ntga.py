"""Neural tangent generalization attack: samples from which wide nets, as their kernel has it, generalise badly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.unlearnable.set_noise import NoiseAttack, SetNoise, noise_attack
from taster.attacks.unlearnable.tangent_kernel import gradient_flow, tangent_kernel
from taster.core.batch import check_tensors
from taster.core.threat import threat
from taster.errors import AttackError
from taster.utils.setting_types import PositiveCount, PositiveFloat
from taster.utils.settings import validate_settings


@threat("indiscriminate", "availability", "grey box", "individual", "bilevel", "before training")
@validate_settings
def ntga(
    *,
    perturbation: PerturbationSettings = PerturbationSettings(),
    depth: PositiveCount = 3,
    time: PositiveFloat = 1000.0,
    block_size: PositiveCount = 100,
    pgd_steps: PositiveCount = 10,
    step_size: PositiveFloat | None = None,
) -> NoiseAttack:
    """Noise that raises the loss of the attacker's own samples under a wide net that is trained on the perturbed ones.

        max over ‖δ‖ ≤ ε of CE(K(V, X + δ) K(X + δ, X + δ)⁻¹ (1 − exp(−t K(X + δ, X + δ) / n)) Y, labels of V)

    K is the tangent kernel of a fully connected ReLU net of infinite width, so that no net is trained. The protected
    samples are divided into blocks, each of which is perturbed as if it were the whole training set.

    Args:
        perturbation: see `taster.attacks.PerturbationSettings`; the share is of the training set.
        depth: hidden layers of the net.
        time: t, for which the net is trained by gradient flow on the mean of half the squared error.
        block_size: samples of a block; a step takes a time in proportion to its cube.
        pgd_steps: number of PGD steps.
        step_size: α, in the units of the data. None: 1.5 ε / pgd_steps.

    Raises (when it poisons):
        AttackError: for samples that are no finite floats, a share that is no sample, and own samples of another shape.

    Source: Yuan and Wu 2021 ("Neural tangent generalization attacks").
    """

    def make(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
        own = check_tensors(knowledge.own, "ntga")
        if own.x.shape[1:] != noise.own.x.shape[1:]:
            raise AttackError(
                f"ntga: the attacker's own samples: got {list(own.x.shape)}, wanted [m, "
                f"{', '.join(map(str, noise.own.x.shape[1:]))}] as in the training set"
            )
        device = noise.own.x.device
        validation = own.x.to(device).flatten(1).double()
        labels = own.y.to(device)

        def slope(x: Tensor, y: Tensor) -> Tensor:
            at = x.detach().requires_grad_()
            flat = at.flatten(1).double()
            predicted = gradient_flow(
                tangent_kernel(flat, flat, depth),
                tangent_kernel(validation, flat, depth),
                one_hot(y, knowledge.classes).double(),
                time,
            )
            return torch.autograd.grad(cross_entropy(predicted, labels), at)[0]

        size = 1.5 * perturbation.epsilon / pgd_steps if step_size is None else step_size
        noise.ascend(slope, steps=pgd_steps, step_size=size, batch_size=block_size)

    return noise_attack("ntga", perturbation, make)
