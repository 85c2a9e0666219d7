"""Image data sets of the Hugging Face hub, or of a local folder in one of its layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taster.data.images import Images, ImageSet
from taster.data.torch_dataset import OnProgress, decode_images
from taster.errors import DataError


def open_splits(source: str, config: str | None = None) -> Mapping[str, Any]:
    """The splits of a data set by hub name or local path, not decoded yet.

    Args:
        source: "owner/name", a folder, or a Parquet file.
        config: which of the data sets under that name, where it holds several.

    Raises:
        DataError: when it cannot be found or read.
    """
    import datasets  # seconds to import, and only needed for these sources

    datasets.disable_progress_bars()
    try:
        if source.endswith(".parquet"):
            splits = datasets.load_dataset("parquet", data_files=source)
        else:
            splits = datasets.load_dataset(source, config)
    except Exception as error:  # the library raises errors of a dozen others: connections, Arrow, fsspec, ...
        raise DataError(f"{source}: cannot be loaded as a data set: {_reason(error)}") from error
    found: Mapping[str, Any] = splits
    return found


def from_splits(
    name: str,
    splits: Mapping[str, Any],
    *,
    image: str | None = None,
    label: str | None = None,
    on_progress: OnProgress | None = None,
) -> ImageSet:
    """The train and test (or validation) split of a `datasets.DatasetDict`, decoded.

    Args:
        name: for error messages.
        splits: by name.
        image, label: columns; found by their feature type where None.
        on_progress: told of decoded images.

    Raises:
        DataError: when there is no train split, no image or no label column, or an image cannot be read.
    """
    if "train" not in splits:
        raise DataError(f"{name}: got the splits {sorted(splits)}, wanted one named 'train'")
    train = splits["train"]
    test = splits.get("test", splits.get("validation"))
    image_column = _column(name, train.features, image, "Image", "image")
    label_column = _column(name, train.features, label, "ClassLabel", "label")
    parts = [
        None if split is None else _decode(name, split, image_column, label_column, on_progress)
        for split in (train, test)
    ]
    assert parts[0] is not None
    feature = train.features[label_column]
    highest = max(int(part.y.max()) for part in parts if part is not None)
    return ImageSet(name, parts[0], parts[1], classes=getattr(feature, "num_classes", highest + 1))


def _column(name: str, features: Mapping[str, Any], wanted: str | None, kind: str, key: str) -> str:
    """The column of a feature type, or the one asked for; for labels a single whole-number column will do."""
    have = ", ".join(f"{column} ({_kind(feature)})" for column, feature in features.items())
    if wanted is not None:
        if wanted not in features:
            raise DataError(f"{name}: data.{key}: got {wanted!r}, wanted one of the columns {have}")
        return wanted
    found = [column for column, feature in features.items() if _kind(feature) == kind]
    if not found and key == "label":
        found = [
            column
            for column, feature in features.items()
            if str(getattr(feature, "dtype", "")).startswith(("int", "uint"))
        ]
    if len(found) == 1:
        return found[0]
    problem = f"no {key} column" if not found else f"several {key} columns, {found}"
    raise DataError(f"{name}: {problem} among {have}; wanted one of type {kind}, or name it: data.{key}")


def _decode(name: str, split: Any, image: str, label: str, on_progress: OnProgress | None) -> Images:
    class Rows:
        def __len__(self) -> int:
            return len(split)

        def __getitem__(self, row: int) -> tuple[Any, Any]:
            entry = split[row]
            return entry[image], entry[label]

    return decode_images(Rows(), f"{name}, split {split.split}", on_progress)


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _reason(error: BaseException) -> str:
    """The innermost cause, where the library wraps it in a sentence that says nothing."""
    while error.__cause__ is not None and "generating the dataset" in str(error):
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
