"""Random views: each image by itself, from the seed, as they are defined, and differentiable."""

from __future__ import annotations

import colorsys
from typing import Any

import pytest
import torch
from torch import Tensor

from taster.data.image_form import greyed
from taster.selfsup import ImageViews, ViewSettings

STILL = {"crop_area": 1.0, "mirror": False, "jitter_share": 0.0, "grey_share": 0.0, "blur_share": 0.0}


def images(n: int = 6, channels: int = 3, size: int = 8) -> Tensor:
    return 0.25 + 0.5 * torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def view(x: Tensor, seed: int = 0, **settings: Any) -> Tensor:
    return ImageViews(ViewSettings(**settings))(x, torch.Generator().manual_seed(seed))


def test_nothing_asked_for_is_the_image_itself() -> None:
    torch.testing.assert_close(view(images(), **STILL), images())


@pytest.mark.parametrize("channels", [1, 3])
def test_views_come_from_the_seed_and_stay_in_the_range(channels: int) -> None:
    x = images(channels=channels)
    first = view(x, blur_share=0.5)
    assert torch.equal(first, view(x, blur_share=0.5))
    assert not torch.equal(first, view(x, 1, blur_share=0.5))
    assert first.shape == x.shape
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1


def test_each_image_has_draws_of_its_own() -> None:
    x = images(1).expand(50, -1, -1, -1)
    found = view(x)
    assert len({tuple(row.tolist()) for row in found.flatten(1)}) > 45


def test_a_crop_of_a_ramp_is_a_part_of_it_and_some_are_mirrored() -> None:
    ramp = torch.linspace(0, 1, 16).expand(200, 1, 16, 16)
    found = view(ramp, **{**STILL, "crop_area": 0.25, "mirror": True})
    steps = found.diff(dim=3)[:, 0, 4, 4:12]
    rising = (steps > 0).all(1)
    assert bool((rising | (steps < 0).all(1)).all())
    assert 60 < int(rising.sum()) < 140
    widths = steps.abs().mean(1) * 15  # of the crop, as a share of the image's width
    assert float(widths.max()) <= 1 + 1e-5
    assert 0.25 * 3 / 4 - 1e-5 <= float((widths**2).min()) < 0.3


def test_a_mirrored_image_without_a_crop_is_the_flipped_one() -> None:
    x = images(40)
    found = view(x, **{**STILL, "mirror": True})
    same, flipped = ((found - other).abs().flatten(1).amax(1) < 1e-5 for other in (x, x.flip(3)))
    assert bool((same ^ flipped).all())
    assert 10 < int(flipped.sum()) < 30


def test_grey_views_are_grey_and_the_others_untouched() -> None:
    x = images(40)
    found = view(x, **{**STILL, "grey_share": 0.5})
    same, grey = ((found - other).abs().flatten(1).amax(1) < 1e-5 for other in (x, greyed(x)))
    assert bool((same ^ grey).all())
    assert 10 < int(grey.sum()) < 30
    torch.testing.assert_close(view(x, **{**STILL, "grey_share": 1.0}), greyed(x))


def test_a_turn_of_the_hue_keeps_the_luma_and_moves_the_hue_by_as_much() -> None:
    colours = torch.tensor([0.6, 0.4, 0.4])[None, :, None, None].expand(300, 3, 2, 2)
    found = view(colours, **{**STILL, "jitter_share": 1.0, "jitter": 0.0, "hue": 0.1})
    torch.testing.assert_close(greyed(found), greyed(colours), atol=1e-5, rtol=0)
    hues = torch.tensor([colorsys.rgb_to_hsv(*colour)[0] for colour in found[:, :, 0, 0].tolist()])
    turned = torch.minimum(hues, 1 - hues)
    assert 0.07 < float(turned.max()) < 0.15  # HSV and YIQ measure angles a little differently
    assert float(found.var(0).max()) > 0


def test_brightness_and_contrast_of_a_flat_and_of_a_two_valued_image() -> None:
    settings = {**STILL, "jitter_share": 1.0, "hue": 0.0}
    flat = torch.full((300, 1, 4, 4), 0.5)
    bright = view(flat, **settings)[:, 0, 0, 0] / 0.5
    assert 0.6 <= float(bright.min()) < 0.65
    assert 1.35 < float(bright.max()) <= 1.4
    halves = flat.clone()
    halves[:, :, :2] = 0.4
    found = view(halves, **settings)
    gaps = (found[:, 0, 3, 0] - found[:, 0, 0, 0]) / found.mean((1, 2, 3)) / (0.1 / 0.45)  # contrast alone is left
    assert 0.6 <= float(gaps.min()) < 0.65
    assert 1.35 < float(gaps.max()) <= 1.4 + 1e-4


def test_a_blur_keeps_a_flat_image_and_smooths_a_point() -> None:
    blurred = {**STILL, "blur_share": 1.0}
    flat = torch.full((5, 3, 20, 20), 0.3)
    torch.testing.assert_close(view(flat, **blurred), flat)
    point = torch.zeros(5, 3, 20, 20)
    point[:, :, 10, 10] = 1
    found = view(point, **blurred)
    torch.testing.assert_close(found.sum((2, 3)), torch.ones(5, 3))
    assert bool((found[:, :, 10, 10] < 1).all())
    torch.testing.assert_close(found, found.transpose(2, 3))


def test_gradients_against_differences() -> None:
    x = images(2, size=5).double().requires_grad_()
    settings = ViewSettings(blur_share=1.0, jitter_share=1.0, jitter=0.1)
    assert torch.autograd.gradcheck(lambda x: ImageViews(settings)(x, torch.Generator().manual_seed(3)), (x,))
