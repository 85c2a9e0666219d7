"""Shapes, names and options of the architectures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from taster.data import as_batch, load_images
from taster.errors import ModelError
from taster.experiments.scenarios.weights import load_weights
from taster.models import MODELS, lenet, mlp, resnet18, small_cnn, trades_cnn, vgg11, vit


@pytest.mark.parametrize("name", [name for name in MODELS if name != "token_net"])  # which takes no images
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32)])
def test_every_model_gives_one_number_a_class(name: str, shape: tuple[int, int, int]) -> None:
    model = MODELS[name](shape, 7)
    assert model(torch.rand(2, *shape)).shape == (2, 7)


def test_small_images_work_where_they_can() -> None:
    for build in (mlp, small_cnn, resnet18):
        assert build((1, 8, 8), 10)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(ModelError, match="at least 32x32"):
        vgg11((1, 28, 28), 10)
    assert vit((1, 8, 8), 10, patch=2)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(ModelError, match="patch = 4 for images of 30x28"):
        vit((1, 30, 28), 10)
    with pytest.raises(ModelError, match="a multiple"):
        vit((1, 28, 28), 10, width=63)


def test_lenet_is_the_published_one_and_takes_no_smaller_images() -> None:
    names = [name for name, _ in lenet((3, 32, 32), 10).named_children()]
    assert names == ["conv1", "act1", "pool1", "conv2", "act2", "pool2", "flatten", "fc1", "act3", "fc2"]
    sizes = {name: tuple(value.shape) for name, value in lenet((1, 28, 28), 10).named_parameters() if "weight" in name}
    assert sizes == {
        "conv1.weight": (20, 1, 5, 5),
        "conv2.weight": (50, 20, 5, 5),
        "fc1.weight": (500, 800),
        "fc2.weight": (10, 500),
    }
    old = lenet((1, 16, 20), 4, channels=[6, 16], hidden=84, activation="tanh")
    assert old(torch.rand(2, 1, 16, 20)).shape == (2, 4)
    assert isinstance(old.act1, torch.nn.Tanh)
    with pytest.raises(ModelError, match="got images of 8x8, wanted at least 16x16"):
        lenet((1, 8, 8), 10)


def test_trades_network_is_the_published_one_and_takes_no_smaller_images() -> None:
    model = trades_cnn((1, 28, 28), 10)
    assert {name: tuple(value.shape) for name, value in model.named_parameters() if "weight" in name} == {
        "feature_extractor.conv1.weight": (32, 1, 3, 3),
        "feature_extractor.conv2.weight": (32, 32, 3, 3),
        "feature_extractor.conv3.weight": (64, 32, 3, 3),
        "feature_extractor.conv4.weight": (64, 64, 3, 3),
        "classifier.fc1.weight": (200, 1024),
        "classifier.fc2.weight": (200, 200),
        "classifier.fc3.weight": (10, 200),
    }
    assert sum(p.numel() for p in model.parameters()) == 312_202
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(model(x), torch.zeros(3, 10))  # the last layer starts at zero
    layers = [type(m).__name__ for m in model.modules() if not list(m.children())]
    conv, dense = ["Conv2d", "ReLU"], ["Linear", "ReLU"]
    pool = ["MaxPool2d"]
    assert layers == [*conv, *conv, *pool, *conv, *conv, *pool, *dense, "Dropout", *dense, "Linear"]
    assert trades_cnn((3, 32, 32), 10).classifier.fc1.in_features == 64 * 5 * 5
    assert trades_cnn((1, 16, 20), 4)(torch.rand(2, 1, 16, 20)).shape == (2, 4)
    with pytest.raises(ModelError, match="got images of 15x28, wanted at least 16x16"):
        trades_cnn((1, 15, 28), 10)


def test_trades_network_draws_its_convolutions_for_relu_and_drops_in_training_alone() -> None:
    torch.manual_seed(0)
    model = trades_cnn((1, 28, 28), 10)
    conv = model.feature_extractor.conv4
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert not conv.bias.any()
    torch.nn.init.normal_(model.classifier.fc3.weight)
    x = torch.rand(4, 1, 28, 28)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_a_transformer_looks_everywhere() -> None:
    torch.manual_seed(0)
    model, x = vit((1, 8, 8), 3).eval(), torch.rand(1, 1, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(model.blocks[0](model.patches(x).flatten(2).transpose(1, 2))[0, 0].sum(), x)
    assert bool((slope != 0).all())


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


def test_standardised_pixels_are_constants_inside_the_model() -> None:
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    for build in (resnet18, vgg11):
        torch.manual_seed(0)
        plain = build((3, 32, 32), 10).eval()
        torch.manual_seed(0)
        inside = build((3, 32, 32), 10, pixel_mean=mean, pixel_std=std).eval()
        assert set(inside.state_dict()) == set(plain.state_dict())
        x = torch.rand(2, 3, 32, 32)
        by_hand = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        assert torch.allclose(inside(x), plain(by_hand), atol=1e-6)


@pytest.mark.parametrize(
    "pixels",
    [
        {"pixel_mean": [0.5, 0.5, 0.5]},
        {"pixel_std": [0.5, 0.5, 0.5]},
        {"pixel_mean": [0.5], "pixel_std": [0.5]},
        {"pixel_mean": [0.5] * 3, "pixel_std": [0.5, 0.0, 0.5]},
    ],
)
def test_standardizing_that_does_not_fit_is_refused(pixels: dict[str, list[float]]) -> None:
    with pytest.raises(ModelError, match=r"for images of 3 channels, wanted one number per channel"):
        resnet18((3, 32, 32), 10, **pixels)


@pytest.mark.parametrize(("epoch", "accuracy"), [(4, 65.4), (8, 77.5)])
def test_a_resnet_trained_elsewhere_reproduces(data_folder: Path, epoch: int, accuracy: float) -> None:
    checkpoint = data_folder.parent / "checkpoints" / f"cifar10-resnet18-epoch{epoch}.safetensors"
    if not checkpoint.is_file():
        pytest.skip(f"needs {checkpoint}")
    # Trained with the ImageNet form's max-pooling, on pixels standardized after the crop (found in its batch norms:
    # their running statistics fit no other form).
    model = resnet18(
        (3, 32, 32),
        10,
        max_pool=True,
        pixel_mean=[0.4914, 0.4822, 0.4465],
        pixel_std=[0.2023, 0.1994, 0.2010],
    ).eval()
    load_weights(model, str(checkpoint))
    images = load_images(str(data_folder / "cifar10")).test
    assert images is not None
    batch = as_batch(images.select(torch.arange(2000)))
    with torch.no_grad():
        right = sum(
            int((model(x).argmax(1) == y).sum()) for x, y in zip(batch.x.split(500), batch.y.split(500), strict=True)
        )
    assert right / 20 == pytest.approx(accuracy, abs=0.2)
