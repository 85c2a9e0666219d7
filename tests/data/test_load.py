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


def test_a_missing_path_is_refused() -> None:
    for source in ("./nowhere", "/nowhere/at/all", "some/deep/path", "file.parquet", "./a\0b"):
        with pytest.raises(DataError, match="no such file or folder"):
            load_images(source)
    for source in ("~nosuchuser/x", "x" * 5000):
        with pytest.raises(DataError, match="cannot be read"):
            load_images(source)


def test_a_truncated_parquet_file_is_refused(folder: Path) -> None:
    path = folder / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="cannot be loaded"):
        load_images(str(folder))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty folder"):
        load_images(str(tmp_path))


def test_a_set_without_labels_is_refused(tmp_path: Path) -> None:
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


def test_a_function_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_data.py").write_text(
        "import torch\n"
        "def pair():\n"
        "    make = lambda n: torch.utils.data.TensorDataset(torch.rand(n, 1, 4, 4), torch.arange(n) % 2)\n"
        "    return make(6), make(4)\n"
        "def broken():\n    raise ValueError('no')\n"
        "def leaves():\n    raise SystemExit(0)\n"
        "def columns():\n    return {'train': [1]}\n"
        "def empty():\n    return [], []\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    data = load_images("my_own_data:pair")
    assert (len(data.train), len(data.test), data.classes) == (6, 4, 2)
    for name, message in (("my_own_data:nothing", "cannot be imported"), ("my_own_data:number", "wanted a function")):
        with pytest.raises(DataError, match=message):
            load_images(name)
    for name, message in (
        ("broken", "ValueError: no"),
        ("leaves", "SystemExit: 0"),
        ("columns", "wanted a datasets.Dataset"),
        ("empty", "got no images"),
    ):
        with pytest.raises(DataError, match=message):
            load_images(f"my_own_data:{name}")
    (tmp_path / "my_leaving_module.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(DataError, match="cannot be imported"):
        load_images("my_leaving_module:pair")


def test_sets_are_checked() -> None:
    good = Images(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="labels from 0 to 1, wanted 0 to 0"):
        ImageSet("x", good, None, classes=1)
    with pytest.raises(DataError, match="wanted uint8"):
        Images(torch.zeros(2, 1, 3, 3), torch.tensor([0, 1]))
    other = Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="test images"):
        ImageSet("x", good, other, classes=2)


def test_a_data_set_without_a_length_is_refused() -> None:
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter([])

    for source in (iter([1]), Endless()):
        with pytest.raises(DataError, match="without a length"):
            load_images(source)


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
