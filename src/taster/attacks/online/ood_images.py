"""Out-of-distribution images: samples of another data set, without malicious intent."""

from __future__ import annotations

from functools import cache
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from taster.attacks.online_attack import Budget, OnlineAttack
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.data import Images, Layout, as_batch, load_images
from taster.perturbations.pgd import LpBall
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "black box",
    "individual",
    "none",
    "stream step",
    note="No malice is meant: it is classed by what such samples could do.",
)
@validate_settings
def ood_images(
    generator: torch.Generator,
    *,
    source: str,
    config: str | None = None,
    image: str | None = None,
    label: str | None = None,
    layout: Layout | None = None,
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
) -> OnlineAttack:
    """Replaces samples by images of another data set, under the labels of the samples that they replace.

    Images are resized to the stream's size. Gray images are repeated to the stream's channels; color images are
    averaged to gray if the stream's channels differ.

    Args:
        generator: draws the images, and which samples are replaced.
        source: the other data set, see `taster.data.load_images`.
        config: configuration of a Hugging Face data set that has several, see `taster.data.load_images`.
        image: its column of images, likewise.
        label: its column of labels, likewise.
        layout: order of the axes of its images, likewise.
        poison_fraction: fraction of each batch that is replaced.

    Raises:
        DataError: if the data set cannot be loaded.

    Source: the out-of-distribution samples of Zhu et al. 2023, Fig. 5.
    """
    budget = Budget(LpBall("linf", 1.0), poison_fraction)
    images = _images(source, config, image, label, layout)

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
def _images(source: str, config: str | None, image: str | None, label: str | None, layout: Layout | None) -> Images:
    return load_images(source, config=config, image=image, label=label, layout=layout).train


def _shaped(x: Tensor, shape: torch.Size) -> Tensor:
    """Images [n, c, h, w] converted to another shape [c, h, w]."""
    if x.shape[1] != shape[0]:
        x = x.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    return x if x.shape[2:] == shape[1:] else interpolate(x, shape[1:], mode="bilinear", antialias=True).clamp(0, 1)
