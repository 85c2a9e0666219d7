"""Image data sets of the Hugging Face hub, or of a local folder in one of its layouts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taster.data.image_form import ImageForm
from taster.data.images import Images, ImageSet
from taster.data.torch_dataset import Layout, OnProgress, decode_images
from taster.errors import DataError


def open_splits(source: str, config: str | None = None) -> Mapping[str, Any]:
    """The splits of a data set by hub name or local path, not decoded yet.

    Args:
        source: "owner/name", a folder, also one of `save_to_disk`, or a Parquet file.
        config: name of the configuration, for a data set that has several.

    Raises:
        DataError: if it cannot be found or read.
    """
    import datasets  # seconds to import, and only needed for these sources

    datasets.disable_progress_bars()
    try:
        if source.endswith(".parquet"):
            splits = datasets.load_dataset("parquet", data_files=source)
        elif is_saved_to_disk(Path(source)):
            splits = datasets.load_from_disk(source)
            if isinstance(splits, datasets.Dataset):
                splits = datasets.DatasetDict({"train": splits})
        else:
            splits = datasets.load_dataset(source, config)
    except Exception as error:  # the library raises errors of a dozen others: connections, Arrow, fsspec, ...
        raise DataError(f"{source}: cannot be loaded as a data set: {_reason(error)}") from error
    found: Mapping[str, Any] = splits
    return found


def is_saved_to_disk(path: Path) -> bool:
    """Whether this is a folder as `datasets` writes it with `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def from_splits(
    name: str,
    splits: Mapping[str, Any],
    *,
    image: str | None = None,
    label: str | None = None,
    layout: Layout | None = None,
    on_progress: OnProgress | None = None,
    form: ImageForm | None = None,
) -> ImageSet:
    """The train and test (or validation) split of a `datasets.DatasetDict`, decoded.

    Args:
        name: for error messages.
        splits: by name.
        image: column of the images. Default: the one whose feature is an image.
        label: column of the labels. Default: the one whose feature is a class label, or else a whole number.
        layout: see `taster.data.torch_dataset.decode_images`.
        on_progress: called as images are decoded.
        form: what images are converted to.

    Raises:
        DataError: if there is no train split, no image or label column, or an image or label cannot be read.
    """
    if "train" not in splits:
        raise DataError(f"{name}: got the splits {sorted(map(str, splits))}, wanted one named 'train'")
    train = splits["train"]
    test = splits.get("test", splits.get("validation"))
    for split in (train, test):
        if split is not None and not isinstance(getattr(split, "features", None), Mapping):
            raise DataError(
                f"{name}: got a split of type {type(split).__name__}, wanted a datasets.Dataset with known columns"
            )
    image_column = _column(name, train.features, image, "Image", "image")
    label_column = _column(name, train.features, label, "ClassLabel", "label")
    parts = [
        None if split is None else _decode(name, split, image_column, label_column, layout, on_progress, form)
        for split in (train, test)
    ]
    assert parts[0] is not None
    feature = train.features[label_column]
    highest = max(int(part.y.max()) for part in parts if part is not None)
    classes = getattr(feature, "num_classes", None) or highest + 1
    return ImageSet(name, parts[0], parts[1], classes, class_names=tuple(getattr(feature, "names", None) or ()))


def _column(name: str, features: Mapping[str, Any], wanted: str | None, kind: str, key: str) -> str:
    """The column that was asked for, or the only one of a feature type; for labels also the only one of integers."""
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


def _decode(
    name: str,
    split: Any,
    image: str,
    label: str,
    layout: Layout | None,
    on_progress: OnProgress | None,
    form: ImageForm | None,
) -> Images:
    class Rows:
        def __len__(self) -> int:
            return len(split)

        def __getitem__(self, row: int) -> tuple[Any, Any]:
            try:
                entry = split[row]
            except Exception as error:  # whatever Pillow raises; the file's name is what a user needs
                file = _file_of(split, image, row)
                if file is None:
                    raise
                raise DataError(f"{file}: cannot be read as an image ({type(error).__name__}: {error})") from error
            return entry[image], entry[label]

    split_name = getattr(split, "split", None)  # a data set made from a dict has none
    where = f"{name}{'' if split_name is None else f', split {split_name}'}, columns {image!r} and {label!r}"
    return decode_images(Rows(), where, on_progress, layout, form)


def _file_of(split: Any, image: str, row: int) -> str | None:
    """The file that a row's image lies in; None where it lies in the table itself."""
    if _kind(split.features[image]) == "Image":
        stored = split.cast_column(image, type(split.features[image])(decode=False))[row][image]
        if stored.get("path"):
            return str(stored["path"])
    return None


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _reason(error: BaseException) -> str:
    """The innermost cause, since the library's own sentence does not tell it."""
    while error.__cause__ is not None and "generating the dataset" in str(error):
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
