"""Shapes, names and options of the architectures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from taster.errors import ModelError
from taster.models import MODELS, mlp, resnet18, small_cnn, vgg11


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32)])
def test_every_model_gives_one_number_a_class(name: str, shape: tuple[int, int, int]) -> None:
    model = MODELS[name](shape, 7)
    assert model(torch.rand(2, *shape)).shape == (2, 7)


def test_small_images_work_where_they_can() -> None:
    for build in (mlp, small_cnn, resnet18):
        assert build((1, 8, 8), 10)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(ModelError, match="at least 32x32"):
        vgg11((1, 28, 28), 10)


@pytest.mark.parametrize(("build", "norms"), [(small_cnn, 3), (resnet18, 20), (vgg11, 8)])
def test_group_norm_takes_the_place_of_batch_norm(build, norms: int) -> None:
    kinds = [type(m).__name__ for m in build((3, 32, 32), 10, norm="group").modules()]
    assert kinds.count("GroupNorm") == norms
    assert "BatchNorm2d" not in kinds
    kinds = [type(m).__name__ for m in build((3, 32, 32), 10).modules()]
    assert kinds.count("BatchNorm2d") == norms


def test_sizes_are_the_published_ones() -> None:
    def size(model: torch.nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    assert size(resnet18((3, 32, 32), 10)) == 11_173_962
    assert size(mlp((1, 28, 28), 10)) == 784 * 64 + 64 + 64 * 10 + 10
    assert [m.out_channels for m in vgg11((3, 32, 32), 10).features if hasattr(m, "out_channels")] == [
        64,
        128,
        256,
        256,
        512,
        512,
        512,
        512,
    ]


def test_the_names_are_torchvisions() -> None:
    names = set(resnet18((3, 32, 32), 10).state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer2.0.downsample.0.weight",
        "layer4.1.bn2.bias",
        "fc.weight",
    } <= names
    assert len(names) == 122
    assert "features.0.weight" in vgg11((3, 32, 32), 10).state_dict()


def test_a_resnet_trained_elsewhere_fits_by_name_and_shape(data_folder: Path) -> None:
    from taster import load_state
    from taster.experiments.burn_in import load_weights

    checkpoint = data_folder.parent / "checkpoints" / "cifar10-resnet18-epoch8.safetensors"
    if not checkpoint.is_file():
        pytest.skip(f"needs {checkpoint}")
    model = resnet18((3, 32, 32), 10)
    load_weights(model, str(checkpoint))
    own, saved = model.state_dict(), load_state(checkpoint)
    assert all(torch.equal(own[name], saved[name].to(own[name].dtype)) for name in own)
