"""Loads a data set from any source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from taster.data.cache import cached_image_set, content_key, files_key, splits_key
from taster.data.class_folders import read_class_folders
from taster.data.digits import DIGITS, digits
from taster.data.huggingface import from_splits, is_saved_to_disk, open_splits
from taster.data.image_form import Color, ImageForm
from taster.data.images import Images, ImageSet
from taster.data.labelled_files import is_value_file, read_labelled_files
from taster.data.torch_dataset import Layout, OnProgress, decode_images
from taster.errors import DataError, TasterError
from taster.utils.import_path import import_callable, is_import_path


def load_images(
    source: str | Any,
    *,
    config: str | None = None,
    image: str | None = None,
    label: str | None = None,
    layout: Layout | None = None,
    resize: tuple[int, int] | None = None,
    color: Color | None = None,
    on_progress: OnProgress | None = None,
) -> ImageSet:
    """Loads an image-classification data set. Files and hub data sets are decoded once and cached.

    Args:
        source: "digits", always the set that comes with taster ("./digits" is a folder that is called so); a local
            folder (of sub-folders, one a class, whose names are kept; or of `save_to_disk`) or Parquet file, or a hub
            name, for Hugging Face `datasets`; a file of comma- or tab-separated values with the columns path (relative
            to the file) and label; "package.module:function",
            whose result may be any of the following; a torch Dataset of (image, label); a
            pair of them, train and test; a `datasets.DatasetDict`; or an ImageSet.
        config: name of the configuration of a hub data set that has several.
        image: column of the images of a Hugging Face data set. Default: found by feature type.
        label: column of the labels, likewise.
        layout: axes of images that are arrays or tensors, "chw" or "hwc". Default: inferred from the shape, see
            `taster.data.torch_dataset.decode_images`.
        resize: height and width that every image is scaled to. Default: all have to be of one size.
        color: "gray" or "rgb", what every image is converted to. Default: all have to have as many channels.
        on_progress: called with the number of images decoded so far and of all.

    Raises:
        DataError: if it is missing, unreadable, or not an image-classification data set.
    """
    form = ImageForm(resize, color)
    columns: dict[str, Any] = {
        "image": image,
        "label": label,
        "layout": layout,
        "on_progress": on_progress,
        "form": form,
    }
    choices = (image, label, layout, *([] if form == ImageForm() else [form]))
    if not isinstance(source, str):
        return _from_object("the data set", source, columns)
    if source == DIGITS:
        return _converted(digits(), form)
    path = Path(source)
    try:
        path = path.expanduser()
        there = path.exists()
        if path.is_dir() and not any(p.is_file() for p in path.rglob("*")):
            raise DataError(f"{source}: got an empty folder, wanted a data set")
        if there and is_value_file(path):
            return _from_value_file(source, path, choices, columns)
        key = content_key(path, *choices) if there else ""
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source!r}: cannot be read: {error}") from error
    if there:
        return cached_image_set(key, source, lambda: _from_path(source, path, columns))
    if is_import_path(source):
        return _from_object(source, _call(source), columns)
    if source.startswith((".", "/", "~")) or path.suffix or source.count("/") > 1:
        raise DataError(f"{source!r}: no such file or folder")
    splits = open_splits(source, config)
    return cached_image_set(splits_key(splits, *choices), source, lambda: from_splits(source, splits, **columns))


def _call(source: str) -> Any:
    """The result of the user's function."""
    function = import_callable(source, DataError)
    try:
        return function()
    except TasterError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise DataError(f"{source}: {type(error).__name__}: {error}") from error


def _from_value_file(source: str, path: Path, choices: tuple[object, ...], columns: dict[str, Any]) -> ImageSet:
    """The images that a file names, one a row."""
    rows = read_labelled_files(path, image=columns["image"], label=columns["label"])
    key = files_key({"": path} | {str(i): file for i, file in enumerate(rows.files)}, *choices)

    def load() -> ImageSet:
        images = decode_images(rows, source, columns["on_progress"], columns["layout"], columns["form"])
        return ImageSet(source, images, None, len(rows.class_names), rows.class_names)

    return cached_image_set(key, source, load)


def _from_path(source: str, path: Path, columns: dict[str, Any]) -> ImageSet:
    """The images of a folder, or of a Parquet file."""
    named = columns["image"] is not None or columns["label"] is not None
    parts = None if named or not path.is_dir() or is_saved_to_disk(path) else read_class_folders(path)
    if parts is None:
        return from_splits(source, open_splits(str(path)), **columns)
    train, test = parts["train"], parts.get("test", parts.get("validation"))
    found = [
        None
        if part is None
        else decode_images(part, source, columns["on_progress"], columns["layout"], columns["form"])
        for part in (train, test)
    ]
    assert found[0] is not None
    return ImageSet(source, found[0], found[1], len(train.class_names), train.class_names)


def _converted(found: ImageSet, form: ImageForm) -> ImageSet:
    """Images that are decoded already, in this form."""
    if form == ImageForm():
        return found

    def convert(part: Images) -> Images:
        return Images(torch.stack([form.apply(image, found.name) for image in part.x]), part.y)

    test = None if found.test is None else convert(found.test)
    return ImageSet(found.name, convert(found.train), test, found.classes, found.class_names)


def _from_object(name: str, made: Any, columns: dict[str, Any]) -> ImageSet:
    form = columns["form"]
    if isinstance(made, ImageSet):
        return _converted(made, form)
    if isinstance(made, Mapping):
        return from_splits(name, made, **columns)
    train, test = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    parts: list[Images | None] = [
        part
        if part is None or isinstance(part, Images)
        else decode_images(part, name, columns["on_progress"], columns["layout"], form)
        for part in (train, test)
    ]
    if parts[0] is None:
        raise DataError(f"{name}: got nothing, wanted a data set")
    if any(part is not None and len(part) == 0 for part in parts):
        raise DataError(f"{name}: got no images")
    classes = 1 + max(int(part.y.max()) for part in parts if part is not None)
    whole = all(not isinstance(part, Images) for part in (train, test))
    found = ImageSet(name, parts[0], parts[1], classes)
    return found if whole else _converted(found, form)
