"""Every way to a data set, and every way it can be wrong."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taster.data import Images, ImageSet, load_images
from taster.data.cache import cache_directory
from taster.errors import DataError


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="png")
    return buffer.getvalue()


def write_parquet(path: Path, n: int = 12, *, label: str | None = "label", size: int = 6, kind: str = "class") -> Path:
    """A Parquet file in the hub's layout."""
    import datasets

    rng = np.random.default_rng(0)
    rows: dict[str, Any] = {
        "picture": [{"bytes": png(rng.integers(0, 256, (size, size), dtype=np.uint8)), "path": None} for _ in range(n)]
    }
    features: dict[str, Any] = {"picture": datasets.Image()}
    if label is not None:
        rows[label] = [i % 3 for i in range(n)]
        features[label] = datasets.ClassLabel(names=["a", "b", "c"]) if kind == "class" else datasets.Value("int64")
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(str(path))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    write_parquet(tmp_path / "set" / "test-00000-of-00001.parquet", 5)
    return tmp_path / "set"


def test_digits_come_with_the_installation() -> None:
    data = load_images("digits")
    assert data.train.x.shape == (1797, 1, 8, 8)
    assert data.train.x.dtype == torch.uint8
    assert int(data.train.x.max()) == 255
    assert (data.test, data.classes, data.shape) == (None, 10, (1, 8, 8))


def test_columns_are_found_by_their_type_and_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    data = load_images(str(folder), on_progress=lambda done, total: told.append((done, total)))
    assert data.train.x.shape == (12, 1, 6, 6)
    assert data.test is not None
    assert (len(data.test), data.classes) == (5, 3)
    assert told == [(12, 12), (5, 5)]
    monkeypatch.setitem(sys.modules, "datasets", None)  # from the cache, nothing else is needed
    again = load_images(str(folder))
    assert torch.equal(again.train.x, data.train.x)
    assert torch.equal(again.test.y, data.test.y)


def test_the_cache_goes_by_content_and_a_damaged_one_is_made_again(folder: Path) -> None:
    first = load_images(str(folder))
    write_parquet(folder / "train-00000-of-00001.parquet", 9)
    assert len(load_images(str(folder)).train) == 9
    files = list(cache_directory().glob("*.safetensors"))
    assert len(files) >= 2
    for file in files:
        file.write_bytes(b"broken")
    write_parquet(folder / "train-00000-of-00001.parquet", 12)
    assert torch.equal(load_images(str(folder)).train.x, first.train.x)


def test_whole_numbers_serve_as_labels_and_one_file_as_a_set(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "numbers.parquet", kind="number")
    data = load_images(str(path))
    assert (len(data.train), data.test, data.classes) == (12, None, 3)


def test_mnist_is_what_it_should_be(data_folder: Path) -> None:
    data = load_images(str(data_folder / "mnist"))
    assert (data.train.x.shape, len(data.test), data.classes) == ((60000, 1, 28, 28), 10000, 10)
    assert float(data.train.x.float().mean() / 255) == pytest.approx(0.1307, abs=1e-4)


def test_a_missing_path_is_told() -> None:
    for source in ("./nowhere", "/nowhere/at/all", "some/deep/path", "file.parquet"):
        with pytest.raises(DataError, match="no such file or folder"):
            load_images(source)
    for source in ("~nosuchuser/x", "x" * 5000):
        with pytest.raises(DataError, match="cannot be read"):
            load_images(source)


def test_a_truncated_parquet_file_is_told(folder: Path) -> None:
    path = folder / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="cannot be loaded"):
        load_images(str(folder))


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty folder"):
        load_images(str(tmp_path))


def test_a_set_without_labels_is_told(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "bare.parquet", label=None)
    with pytest.raises(DataError, match=r"no label column among picture \(Image\)"):
        load_images(str(path))


def test_a_set_with_several_labels_wants_one_named(tmp_path: Path) -> None:
    import datasets

    rows = {
        "i": [{"bytes": png(np.zeros((4, 4), np.uint8)), "path": None}] * 4,
        "fine": [0, 1, 0, 1],
        "coarse": [0, 0, 0, 1],
    }
    kinds = {"i": datasets.Image(), "fine": datasets.ClassLabel(2), "coarse": datasets.ClassLabel(2)}
    path = tmp_path / "two.parquet"
    datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).to_parquet(str(path))
    with pytest.raises(DataError, match="several label columns"):
        load_images(str(path))
    assert load_images(str(path), label="coarse").train.y.tolist() == [0, 0, 0, 1]
    with pytest.raises(DataError, match=r"data.label: got 'rough'"):
        load_images(str(path), label="rough")


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    import datasets

    rows = {
        "i": [{"bytes": png(np.zeros((4, 4), np.uint8)), "path": None}, {"bytes": b"no", "path": None}],
        "l": [0, 1],
    }
    path = tmp_path / "broken.parquet"
    datasets.Dataset.from_dict(
        rows, features=datasets.Features({"i": datasets.Image(), "l": datasets.ClassLabel(2)})
    ).to_parquet(str(path))
    with pytest.raises(DataError, match="row 1 cannot be read"):
        load_images(str(path))


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


def test_colour_and_palettes() -> None:
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
        ([torch.ones(5, 5)], [-1], "labels from -1"),
        ([], [], "no images"),
    ],
)
def test_images_that_are_none_are_told(images: list[Any], labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_images(Pairs(images, labels))


def test_a_function_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_data.py").write_text(
        "import torch\n"
        "def pair():\n"
        "    make = lambda n: torch.utils.data.TensorDataset(torch.rand(n, 1, 4, 4), torch.arange(n) % 2)\n"
        "    return make(6), make(4)\n"
        "def broken():\n    raise ValueError('no')\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    data = load_images("my_own_data:pair")
    assert (len(data.train), len(data.test), data.classes) == (6, 4, 2)
    for name, message in (("my_own_data:nothing", "cannot be imported"), ("my_own_data:number", "wanted a function")):
        with pytest.raises(DataError, match=message):
            load_images(name)
    with pytest.raises(DataError, match="ValueError: no"):
        load_images("my_own_data:broken")


def test_sets_are_checked() -> None:
    good = Images(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="labels from 0 to 1, wanted 0 to 0"):
        ImageSet("x", good, None, classes=1)
    with pytest.raises(DataError, match="wanted uint8"):
        Images(torch.zeros(2, 1, 3, 3), torch.tensor([0, 1]))
    other = Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="test images"):
        ImageSet("x", good, other, classes=2)


def test_a_list_is_no_data_set_and_has_no_length_is_told() -> None:
    with pytest.raises(DataError, match="without a length"):
        load_images(iter([1]))


def test_a_set_of_the_hub_is_decoded_once_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    from taster.data import load as load_module

    splits = datasets.load_dataset(str(folder))
    asked: list[tuple[str, str | None]] = []
    monkeypatch.setattr(load_module, "open_splits", lambda *which: (asked.append(which), splits)[1])
    told: list[int] = []
    for _ in range(2):
        data = load_images("somebody/something", config="some", on_progress=lambda done, total: told.append(done))
        assert (len(data.train), data.classes) == (12, 3)
    assert told == [12, 5]
    assert asked == [("somebody/something", "some")] * 2
