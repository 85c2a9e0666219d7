"""Loads a data set from any source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taster.data.cache import cached_image_set, content_key, splits_key
from taster.data.digits import digits
from taster.data.huggingface import from_splits, open_splits
from taster.data.images import Images, ImageSet
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
    on_progress: OnProgress | None = None,
) -> ImageSet:
    """Loads an image-classification data set. Files and hub data sets are decoded once and cached.

    Args:
        source: "digits"; a local folder or Parquet file, or a hub name, for Hugging Face `datasets`;
            "package.module:function", whose result may be any of the following; a torch Dataset of (image, label); a
            pair of them, train and test; a `datasets.DatasetDict`; or an ImageSet.
        config: name of the configuration of a hub data set that has several.
        image: column of the images of a Hugging Face data set. Default: found by feature type.
        label: column of the labels, likewise.
        layout: axes of images that are arrays or tensors, "chw" or "hwc". Default: inferred from the shape, see
            `taster.data.torch_dataset.decode_images`.
        on_progress: called with the number of images decoded so far and of all.

    Raises:
        DataError: if it is missing, unreadable, or not an image-classification data set.
    """
    columns: dict[str, Any] = {"image": image, "label": label, "layout": layout, "on_progress": on_progress}
    if not isinstance(source, str):
        return _from_object("the data set", source, columns)
    if source == "digits":
        return digits()
    path = Path(source)
    try:
        path = path.expanduser()
        there = path.exists()
        if path.is_dir() and not any(p.is_file() for p in path.rglob("*")):
            raise DataError(f"{source}: got an empty folder, wanted a data set")
        key = content_key(path, image, label, layout) if there else ""
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source!r}: cannot be read: {error}") from error
    if there:
        return cached_image_set(key, source, lambda: from_splits(source, open_splits(str(path)), **columns))
    if is_import_path(source):
        return _from_object(source, _call(source), columns)
    if source.startswith((".", "/", "~")) or path.suffix or source.count("/") > 1:
        raise DataError(f"{source!r}: no such file or folder")
    splits = open_splits(source, config)
    return cached_image_set(
        splits_key(splits, image, label, layout), source, lambda: from_splits(source, splits, **columns)
    )


def _call(source: str) -> Any:
    """The result of the user's function."""
    function = import_callable(source, DataError)
    try:
        return function()
    except TasterError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise DataError(f"{source}: {type(error).__name__}: {error}") from error


def _from_object(name: str, made: Any, columns: dict[str, Any]) -> ImageSet:
    if isinstance(made, ImageSet):
        return made
    if isinstance(made, Mapping):
        return from_splits(name, made, **columns)
    train, test = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    parts: list[Images | None] = [
        part
        if part is None or isinstance(part, Images)
        else decode_images(part, name, columns["on_progress"], columns["layout"])
        for part in (train, test)
    ]
    if parts[0] is None:
        raise DataError(f"{name}: got nothing, wanted a data set")
    if any(part is not None and len(part) == 0 for part in parts):
        raise DataError(f"{name}: got no images")
    classes = 1 + max(int(part.y.max()) for part in parts if part is not None)
    return ImageSet(name, parts[0], parts[1], classes)
