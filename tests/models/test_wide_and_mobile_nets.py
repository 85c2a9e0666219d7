"""MobileNet-V2 and wide residual networks: sizes of the published forms, resolutions, shortcuts, options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from taster.errors import ModelError, SettingError
from taster.models import mobilenet_v2, wide_resnet
from taster.models.mobilenet_v2 import InvertedResidual
from taster.models.wide_resnet import WideBlock

IMAGE = (3, 32, 32)


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def wide_size(depth: int, k: int, classes: int) -> int:
    """Of the published form, layer by layer."""
    total, inside = 3 * 9 * 16, 16
    for width in (16 * k, 32 * k, 64 * k):
        for _ in range((depth - 4) // 6):
            total += 2 * inside + 9 * inside * width + 2 * width + 9 * width * width
            total += inside * width if inside != width else 0
            inside = width
    return total + 2 * inside + inside * classes + classes


@pytest.mark.parametrize(
    ("depth", "width", "published"),
    [(16, 1, 0.2), (40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (16, 8, 11.0), (28, 10, 36.5)],
)
def test_wide_nets_have_the_published_sizes(depth: int, width: int, published: float) -> None:
    with torch.device("meta"):
        found = size(wide_resnet(IMAGE, 10, depth=depth, width=width))
    assert found == wide_size(depth, width, 10)
    # In millions, as published; WRN-16-1 rounded from the count by layers.
    assert found / 1e6 == pytest.approx(published, abs=0.06)


def test_the_mobile_net_has_the_published_size() -> None:
    model = mobilenet_v2(IMAGE, 1000)
    assert size(model) == 3_504_872  # 3.4 million in Sandler et al. 2018, and torchvision's number
    assert size(mobilenet_v2(IMAGE, 10)) == 3_504_872 - 990 * 1281
    blocks = [module for module in model.modules() if isinstance(module, InvertedResidual)]
    assert len(blocks) == 17
    assert sum(block.shortcut for block in blocks) == 10


@pytest.mark.parametrize(
    ("build", "inside", "expected"),
    [(mobilenet_v2, "blocks", (320, 4, 4)), (wide_resnet, "groups", (64, 8, 8))],
)
def test_the_resolution_falls_as_for_cifar(build: Callable[..., nn.Module], inside: str, expected: tuple[int]) -> None:
    model = build(IMAGE, 10)
    shapes: list[torch.Size] = []
    model.get_submodule(inside).register_forward_hook(lambda _, __, out: shapes.append(out.shape[1:]))
    assert model(torch.rand(2, *IMAGE)).shape == (2, 10)
    assert shapes == [torch.Size(expected)]


@pytest.mark.parametrize("build", [mobilenet_v2, wide_resnet])
def test_options(build: Callable[..., nn.Module]) -> None:
    kinds = [type(module).__name__ for module in build(IMAGE, 10, norm="group").modules()]
    batch = [type(module).__name__ for module in build(IMAGE, 10).modules()]
    assert kinds.count("GroupNorm") == batch.count("BatchNorm2d") > 10
    assert "BatchNorm2d" not in kinds
    x = torch.rand(4, 3, 16, 16)
    torch.manual_seed(0)
    plain = build((3, 16, 16), 10).eval()
    torch.manual_seed(0)
    standardized = build((3, 16, 16), 10, pixel_mean=[0.5] * 3, pixel_std=[0.25] * 3).eval()
    torch.testing.assert_close(standardized(x), plain((x - 0.5) / 0.25))
    dropping = build((3, 16, 16), 10, dropout=0.5, norm="none")
    assert not torch.equal(dropping(x), dropping(x))
    assert torch.equal(dropping.eval()(x), dropping(x))
    with pytest.raises(ModelError, match="pixel_mean"):
        build(IMAGE, 10, pixel_mean=[0.5], pixel_std=[0.5])


@pytest.mark.parametrize("stride", [1, 2])
def test_a_wide_block_is_its_shortcut_where_its_last_convolution_is_zero(stride: int) -> None:
    block = WideBlock(4, 4 * stride, stride, "batch", 0.0).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 8, 8)
    found = block(x)
    if block.shortcut is None:
        assert torch.equal(found, x)
    else:
        torch.testing.assert_close(found, block.shortcut(block.norm1(x).relu()))


def test_an_inverted_residual_ends_without_an_activation() -> None:
    torch.manual_seed(0)
    block = InvertedResidual(4, 8, 2, 6, "batch")
    out = block(torch.randn(2, 4, 8, 8))
    assert out.shape == (2, 8, 4, 4)
    assert bool((out < 0).any())
    depthwise = block.conv[3]
    assert depthwise.groups == depthwise.in_channels == 24


def test_depths_that_there_are_not_are_told() -> None:
    with pytest.raises(ModelError, match="got depth 18, wanted 6 n"):
        wide_resnet(IMAGE, 10, depth=18)


@pytest.mark.parametrize(
    ("build", "settings"), [(wide_resnet, {"width": 0}), (wide_resnet, {"depth": 4}), (mobilenet_v2, {"dropout": 1.0})]
)
def test_settings_out_of_bounds_are_told(build: Callable[..., nn.Module], settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        build(IMAGE, 10, **settings)
