"""Folders of classes, beside what `datasets` reads from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from taster.data import ImageSet, load_images
from taster.data.class_folders import read_class_folders
from taster.data.huggingface import from_splits, open_splits
from taster.errors import DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def draw(*files: Path, seed: int = 0, ending: str = ".png") -> None:
    draws = np.random.default_rng(seed)
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 255, (6, 5), dtype=np.uint8)).save(file.with_suffix(ending))


NAMES = ["Zebra", "ant", "ant hill", "ant-2", "ötter", "10", "9"]


def same(found: ImageSet, wanted: ImageSet) -> bool:
    parts = [(found.train, wanted.train), (found.test, wanted.test)]
    if found.class_names != wanted.class_names or found.classes != wanted.classes:
        return False
    return all(
        (mine is None and theirs is None)
        or (mine is not None and theirs is not None and torch.equal(mine.x, theirs.x) and torch.equal(mine.y, theirs.y))
        for mine, theirs in parts
    )


@pytest.mark.parametrize("splits", [("",), ("train", "test"), ("training", "val"), ("train", "dev", "eval")])
def test_it_reads_what_datasets_reads_in_the_same_order(tmp_path: Path, splits: tuple[str, ...]) -> None:
    root = tmp_path / "photos"
    for place, split in enumerate(splits):
        files = [root / split / name / f"{i}" for name in NAMES for i in (10, 9, 1)]
        draw(*files, seed=place)
    assert read_class_folders(root) is not None
    assert same(load_images(str(root)), from_splits("x", open_splits(str(root))))


def test_images_stand_upright_as_the_camera_says(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    draw(root / "a" / "1", root / "b" / "1", ending=".jpg")
    for file in root.rglob("*.jpg"):
        image = Image.open(file)
        exif = image.getexif()
        exif[274] = 6
        image.save(file, exif=exif)
    found = load_images(str(root))
    assert found.shape == (1, 5, 6)
    assert same(found, from_splits("x", open_splits(str(root))))


@pytest.mark.parametrize(
    "extra",
    [
        "metadata.csv",
        "a/notes.txt",
        "a/deeper/1.png",
        "train set/1.png",
        "a/test-1.png",
        "1.png",
        "train/a/1.png",
        "Train/1.png",
    ],
)
def test_other_layouts_are_left_to_datasets(tmp_path: Path, extra: str) -> None:
    draw(tmp_path / "a" / "1", tmp_path / "b" / "1")
    assert read_class_folders(tmp_path) is not None
    (tmp_path / extra).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / extra).write_bytes((tmp_path / "a" / "1.png").read_bytes())
    assert read_class_folders(tmp_path) is None


def test_one_class_is_left_to_datasets(tmp_path: Path) -> None:
    draw(tmp_path / "a" / "1")
    assert read_class_folders(tmp_path) is None


def test_a_damaged_image_is_named_and_hidden_files_are_nothing(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    draw(root / "a" / "1", root / "b" / "1")
    (root / "a" / ".DS_Store").write_bytes(b"x")
    assert len(load_images(str(root)).train) == 2
    whole = (root / "a" / "1.png").read_bytes()
    (root / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a/cut\.png: cannot be read as an image"):
        load_images(str(root))
