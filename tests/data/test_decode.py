"""Images of every form become bytes; what is in doubt or broken is refused with its row."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taster.data import load_images
from taster.errors import DataError


class Pairs(torch.utils.data.Dataset):
    def __init__(self, images: list[Any], labels: list[Any]) -> None:
        self.pairs = list(zip(images, labels, strict=True))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return self.pairs[i]


@pytest.mark.parametrize(
    "image",
    [
        torch.ones(5, 5),
        torch.ones(1, 5, 5),
        np.ones((5, 5, 1), np.float32),
        np.full((5, 5), 255, np.uint8),
        Image.new("L", (5, 5), 255),
        Image.new("1", (5, 5), 1),
    ],
    ids=["tensor", "channels first", "channels last", "bytes", "grey", "black and white"],
)
def test_images_of_any_form_become_bytes(image: Any) -> None:
    data = load_images(Pairs([image, image], [0, 1]))
    assert data.train.x.shape == (2, 1, 5, 5)
    assert bool((data.train.x == 255).all())


def test_palettes_and_alpha_become_color() -> None:
    palette = Image.new("P", (5, 4))
    with pytest.raises(DataError, match="wanted 8 bits a channel"):
        load_images(Pairs([Image.new("I;16", (5, 4))], [0]))
    assert load_images(Pairs([palette], [0])).shape == (3, 4, 5)
    assert load_images(Pairs([Image.new("RGBA", (5, 4))], [0])).shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([torch.ones(5, 5) * 2], [0], r"wanted floating point in \[0, 1\]"),
        ([torch.ones(5, 5) * float("nan")], [0], "nan"),
        ([torch.ones(5, 5, dtype=torch.int64)], [0], "wanted bytes"),
        ([torch.ones(5, 5), torch.ones(4, 5)], [0, 1], "resize"),
        ([torch.ones(5)], [0], "wanted \\[h, w\\]"),
        (["text"], [0], "wanted an image"),
        ([torch.ones(5, 5)], ["cat"], "'cat', wanted a whole number"),
        ([torch.ones(5, 5)], [0.5], "wanted a whole number"),
        ([torch.ones(5, 5)], [float("inf")], "wanted a whole number"),
        ([torch.ones(5, 5)], [-1], "row 0: got the label -1, wanted a whole number of at least 0"),
        ([torch.ones(5, 5)], [10**400], "wanted a whole number"),
        ([torch.ones(5, 5)], [torch.tensor([1, 2])], "wanted a whole number"),
        ([torch.ones(5, 5)], [None], "got the label None"),
        ([np.zeros((0, 5), np.uint8)], [0], "at least one pixel"),
        ([np.array(["a"])], [0], "wanted an image"),
        ([None], [0], "got NoneType, wanted an image"),
        ([[[1, 2], [3]]], [0], "cannot be read as an image"),
        ([np.ones((5, 5), complex)], [0], "wanted bytes"),
        ([], [], "no images"),
    ],
)
def test_what_is_no_image_is_refused_with_its_row(images: list[Any], labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_images(Pairs(images, labels))


def shape_of(image: Any, **options: Any) -> tuple[int, int, int]:
    return load_images(Pairs([image], [0]), **options).shape


@pytest.mark.parametrize("channels", [1, 3])
def test_one_or_three_channels_are_found_at_either_end(channels: int) -> None:
    assert shape_of(np.zeros((16, 20, channels), np.uint8)) == (channels, 16, 20)
    assert shape_of(np.zeros((channels, 16, 20), np.uint8)) == (channels, 16, 20)
    assert shape_of(torch.zeros(channels, 16, 20)) == (channels, 16, 20)


@pytest.mark.parametrize("shape", [(16, 20, 4), (16, 20, 13), (13, 16, 20), (3, 20, 3)])
def test_an_array_whose_shape_is_ambiguous_needs_a_layout(shape: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match=r"row 0: got an image of .* wanted data.layout = 'hwc'"):
        shape_of(np.zeros(shape, np.uint8))
    assert shape_of(np.zeros(shape, np.uint8), layout="hwc") == (shape[2], *shape[:2])
    assert shape_of(np.zeros(shape, np.uint8), layout="chw") == shape


def test_a_tensor_has_its_channels_first_unless_it_looks_otherwise() -> None:
    assert shape_of(torch.zeros(4, 16, 20)) == (4, 16, 20)
    assert shape_of(torch.zeros(13, 16, 20)) == (13, 16, 20)
    with pytest.raises(DataError, match=r"wanted data\.layout"):
        shape_of(torch.zeros(16, 20, 4))
    assert shape_of(torch.zeros(16, 20, 4), layout="hwc") == (4, 16, 20)


def test_rows_of_datasets_that_are_arrays_need_a_layout_too() -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [Image.new("RGBA", (20, 16))] * 2, "label": [0, 1]}
    table = datasets.Dataset.from_dict(rows, features=features)
    assert load_images(datasets.DatasetDict(train=table)).shape == (3, 16, 20)
    arrays = datasets.DatasetDict(train=table.with_format("numpy"))
    with pytest.raises(DataError, match="columns 'image' and 'label': row 0: got an image of"):
        load_images(arrays)
    assert load_images(arrays, layout="hwc").shape == (4, 16, 20)


def test_a_truncated_file_is_refused_with_its_row() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    cut = Image.open(io.BytesIO(file.getvalue()[:700]))
    with pytest.raises(DataError, match="row 1: cannot be read as an image: OSError"):
        load_images(Pairs([Image.fromarray(noise), cut], [0, 1]))


@pytest.mark.parametrize(("mode", "channels"), [("La", 1), ("RGBa", 3), ("CMYK", 3), ("YCbCr", 3), ("PA", 3)])
def test_every_mode_of_eight_bits_is_read(mode: str, channels: int) -> None:
    through = {"La": "LA", "RGBa": "RGBA", "PA": "LA"}.get(mode)
    image = Image.new("RGB", (8, 6), (255, 255, 255))
    image = image if through is None else image.convert(through)
    assert shape_of(image.convert(mode)) == (channels, 6, 8)


def test_a_mode_that_cannot_be_converted_is_refused_with_its_row() -> None:
    class Odd:
        mode = "RGB"

        def convert(self, mode: str) -> Image.Image:
            raise ValueError("conversion not supported")

    with pytest.raises(DataError, match="row 0: cannot be read as an image: ValueError: conversion not supported"):
        shape_of(Odd())
