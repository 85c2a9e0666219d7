"""One door for every data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taster.data.cache import cached_image_set, content_key, splits_key
from taster.data.digits import digits
from taster.data.huggingface import from_splits, open_splits
from taster.data.images import Images, ImageSet
from taster.data.torch_dataset import OnProgress, decode_images
from taster.errors import DataError
from taster.utils.import_path import import_callable, is_import_path


def load_images(
    source: str | Any,
    *,
    config: str | None = None,
    image: str | None = None,
    label: str | None = None,
    on_progress: OnProgress | None = None,
) -> ImageSet:
    """An image-classification data set, decoded once.

    Args:
        source: "digits"; a local folder or Parquet file, or a hub name, for Hugging Face `datasets`;
            "package.module:function", whose result is taken as the following are; a torch Dataset of (image, label);
            a pair of them, train and test; a `datasets.DatasetDict`; or an ImageSet.
        config: which of the data sets under a hub name, where it holds several.
        image, label: columns of a Hugging Face data set; found by feature type where None.
        on_progress: told how many of how many images have been decoded.

    Raises:
        DataError: when it is missing, unreadable, or is not image classification.
    """
    if not isinstance(source, str):
        return _from_object("the data set", source, image, label, on_progress)
    if source == "digits":
        return digits()
    try:
        path = Path(source).expanduser()
        there = path.exists()
        if path.is_dir() and not any(p.is_file() for p in path.rglob("*")):
            raise DataError(f"{source}: got an empty folder, wanted a data set")
        key = content_key(path, image, label) if there else ""
    except (OSError, RuntimeError) as error:  # RuntimeError: the home of a user that there is not
        raise DataError(f"{source}: cannot be read: {error}") from error
    if there:
        return cached_image_set(
            key,
            source,
            lambda: from_splits(source, open_splits(str(path)), image=image, label=label, on_progress=on_progress),
        )
    if is_import_path(source):
        function = import_callable(source, DataError)
        try:
            made = function()
        except Exception as error:  # whatever the user's code raises
            raise DataError(f"{source}: {type(error).__name__}: {error}") from error
        return _from_object(source, made, image, label, on_progress)
    if source.startswith((".", "/", "~")) or path.suffix or source.count("/") > 1:
        raise DataError(f"{source}: no such file or folder")
    splits = open_splits(source, config)
    return cached_image_set(
        splits_key(splits, image, label),
        source,
        lambda: from_splits(source, splits, image=image, label=label, on_progress=on_progress),
    )


def _from_object(
    name: str, made: Any, image: str | None, label: str | None, on_progress: OnProgress | None
) -> ImageSet:
    if isinstance(made, ImageSet):
        return made
    if isinstance(made, Mapping):
        return from_splits(name, made, image=image, label=label, on_progress=on_progress)
    train, test = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    parts: list[Images | None] = [
        None if part is None else part if isinstance(part, Images) else decode_images(part, name, on_progress)
        for part in (train, test)
    ]
    if parts[0] is None:
        raise DataError(f"{name}: got nothing, wanted a data set")
    classes = 1 + max(int(part.y.max()) for part in parts if part is not None)
    return ImageSet(name, parts[0], parts[1], classes)
