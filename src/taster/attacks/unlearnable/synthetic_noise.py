"""Synthetic noise: patches of values that tell the classes apart by a linear rule, made without any net or image."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.unlearnable.set_noise import NoiseAttack, SetNoise, noise_attack
from taster.core.threat import threat
from taster.errors import AttackError
from taster.utils.setting_types import PositiveCount, PositiveFloat
from taster.utils.settings import validate_settings


@threat("indiscriminate", "availability", "black box", "individual", "none", "before training")
@validate_settings
def synthetic_noise(
    *,
    perturbation: PerturbationSettings = PerturbationSettings(),
    patch: PositiveCount = 8,
    separation: PositiveFloat = 10.0,
) -> NoiseAttack:
    """Noise that a linear rule divides by class: a net learns it before it learns anything of the images.

    An image of the class c is divided into d patches of one value each, by channel; their values are drawn as
    v = s μ_c + A_c z with a vertex μ_c of the hypercube {−1, 1}^d, another for each class, z of a standard normal
    distribution, and a matrix A_c of numbers between −1 and 1. Each image's values are scaled until the largest is ε
    ("linf"), or until their Euclidean norm over all pixels is ("l2").

    Args:
        perturbation: see `taster.attacks.PerturbationSettings`; the share is of the training set.
        patch: height and width of a patch in pixels; those at the right and lower edges may be smaller.
        separation: s, the distance of the vertices from 0 along each axis.

    Raises (when it poisons):
        AttackError: for samples that are no images [n, c, h, w] of finite floats, a share that is no sample, and fewer
            vertices than classes.

    Source: Yu et al. 2022 ("Availability attacks create shortcuts"), with the Gaussian clusters of Guyon
        2003. The paper takes the l2 norm.
    """

    def make(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
        shape = noise.own.x.shape[1:]
        if len(shape) != 3:
            raise AttackError(f"synthetic_noise: got samples {list(shape)}, wanted images [channels, height, width]")
        channels, height, width = shape
        grid = (channels, -(-height // patch), -(-width // patch))
        drawn = _clusters(noise.own.y.cpu(), knowledge.classes, grid, separation, knowledge.generator)
        upsampled = drawn.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[:, :, :height, :width]
        noise.set(_scaled(upsampled, perturbation))

    return noise_attack("synthetic_noise", perturbation, make)


def _clusters(
    y: Tensor, classes: int, grid: tuple[int, int, int], separation: float, generator: torch.Generator
) -> Tensor:
    """A draw for each label from its class's Gaussian, [n, channels, rows, columns]."""
    d = grid[0] * grid[1] * grid[2]
    vertices = _vertices(classes, d, generator)
    values = torch.randn(len(y), d, generator=generator)
    for label in range(classes):
        spread = 2 * torch.rand(d, d, generator=generator) - 1
        members = y == label
        values[members] = separation * vertices[label] + values[members] @ spread
    return values.reshape(-1, *grid)


def _vertices(classes: int, d: int, generator: torch.Generator) -> Tensor:
    """Different vertices of the hypercube, ±1 [classes, d]."""
    if d < 63 and classes > 2**d:
        raise AttackError(
            f"synthetic_noise: got {classes} classes and {d} patches, which have {2**d} patterns, wanted one for each "
            "class; try a smaller patch"
        )
    found: dict[tuple[float, ...], None] = {}
    while len(found) < classes:
        signs = 2.0 * torch.randint(0, 2, (classes, d), generator=generator) - 1
        found.update(dict.fromkeys(map(tuple, signs.tolist())))
    return torch.tensor(list(found)[:classes])


def _scaled(values: Tensor, perturbation: PerturbationSettings) -> Tensor:
    flat = values.flatten(1)
    sizes = flat.abs().amax(1) if perturbation.norm == "linf" else flat.norm(dim=1)
    return values * (perturbation.epsilon / sizes)[:, None, None, None]
