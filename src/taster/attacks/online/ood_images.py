"""Images of another data set: out of the distribution, and nobody's poison."""

from __future__ import annotations

from functools import cache
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from taster.attacks.online_attack import Budget, OnlineAttack
from taster.core.types import Batch
from taster.core.view import View
from taster.data import Images, as_batch, load_images
from taster.perturbations.pgd import LpBall
from taster.utils.settings import validate_settings


@validate_settings
def ood_images(
    generator: torch.Generator,
    *,
    source: str,
    config: str | None = None,
    image: str | None = None,
    label: str | None = None,
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
) -> OnlineAttack:
    """Samples in whose place stand images of another data set, under the labels of those that they replace.

    They are enlarged or shrunk to the stream's size; grey ones are given its channels, coloured ones are averaged where
    it has one.

    Args:
        generator: draws the images, and which samples are replaced.
        source: the other data set, see `taster.data.load_images`.
        config, image, label: of a Hugging Face data set that has several, likewise.
        poison_fraction: share of a batch that is replaced.

    Raises:
        DataError: when the data set cannot be loaded.

    Source: the out-of-distribution samples of Zhu et al. 2023, Fig. 5.
    """
    budget = Budget(LpBall("linf", 1.0), poison_fraction)
    images = _images(source, config, image, label)

    def attack(clean: Batch, view: View) -> Batch:
        x = clean.x.clone()
        chosen = budget.draw_mask(len(clean), generator).to(x.device)
        if not bool(chosen.any()):
            return clean
        drawn = torch.randint(len(images), (int(chosen.sum()),), generator=generator, device=generator.device)
        x[chosen] = _shaped(as_batch(images.select(drawn.cpu())).x.to(x), x.shape[1:])
        return Batch(x, clean.y)

    return OnlineAttack(budget, accumulate=attack, trigger=attack)


@cache
def _images(source: str, config: str | None, image: str | None, label: str | None) -> Images:
    return load_images(source, config=config, image=image, label=label).train


def _shaped(x: Tensor, shape: torch.Size) -> Tensor:
    """Images [n, c, h, w] in another number of channels and size."""
    if x.shape[1] != shape[0]:
        x = x.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    return x if x.shape[2:] == shape[1:] else interpolate(x, shape[1:], mode="bilinear", antialias=True).clamp(0, 1)
