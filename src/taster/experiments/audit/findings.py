"""What an audit finds out about data before it makes a recipe for them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taster.data import ImageSet, OnProgress, Table, load_images, load_table
from taster.data.digits import DIGITS
from taster.data.huggingface import is_saved_to_disk
from taster.data.labelled_files import IMAGE_COLUMN, LABEL_COLUMN, is_value_file
from taster.errors import DataError
from taster.experiments.audit.request import AuditRequest, Scene
from taster.utils.import_path import is_import_path

_SPLITS = {"train", "test", "validation", "val", "valid", "training", "testing", "dev", "eval", "evaluation"}
"""Names of folders that `datasets` takes for splits, not for classes."""


@dataclass(frozen=True)
class Findings:
    """What is known of the data.

    Attributes:
        section: the recipe's `[data]`.
        kind: what the samples are.
        train: samples that roles are cut from.
        test: samples of a test split of their own; None without one.
        shape: of a sample; empty for texts, whose length is that of a vocabulary that each seed fits.
        classes: number of them.
        largest: the share of the most frequent class, in %: what is right by always guessing it.
        target: the rarest class that there are samples of; backdoors aim at it, as it gains most.
        loaded: the data.
    """

    section: dict[str, Any]
    kind: str
    train: int
    test: int | None
    shape: tuple[int, ...]
    classes: int
    largest: float
    target: int
    loaded: ImageSet | Table = field(repr=False, compare=False)

    @property
    def scene(self) -> Scene:
        """What makes sense for such data: tables are trained on as a whole."""
        return "offline" if "table" in self.section else "online"

    @property
    def names(self) -> list[str]:
        """Of the classes; empty if they have none."""
        return list(self.section.get("class_names", []))

    def describe(self) -> str:
        """One line for people."""
        of_shape = f" of {' × '.join(map(str, self.shape))}" if len(self.shape) == 3 else ""
        tests = f", {self.test:,} more for tests" if self.test is not None else ""
        named = f": {', '.join(self.names[:12])}{', ...' if len(self.names) > 12 else ''}" if self.names else ""
        return f"{self.train:,} {self.kind}{of_shape}{tests}; {self.classes} classes{named}"


def examine(request: AuditRequest, on_progress: OnProgress | None = None) -> Findings:
    """Loads the data and finds out what they are.

    Raises:
        DataError: if they are missing, unreadable, of mixed sizes, or of one class.
    """
    path = Path(request.data).expanduser()
    if path.is_file() and is_value_file(path) and not _names_images(path, request):
        return _table(request)
    if path.is_dir():
        _check_class_folders(path)
    if request.text is not None:
        raise DataError(f"--text: got {request.text!r} with {request.data}, wanted it with a CSV file alone")
    return _images(request, on_progress)


def _names_images(path: Path, request: AuditRequest) -> bool:
    """Whether a file of values names images: --image was given, or it has a column called "path"."""
    if request.text is not None or request.image is not None:
        return request.text is None
    return IMAGE_COLUMN in _first_row(path)


def _first_row(path: Path) -> list[str]:
    """The cells of a file's first row, which may name the columns."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            cells = next(csv.reader(file, delimiter="," if path.suffix.lower() == ".csv" else "\t"), [])
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"--data: {path}: cannot be read: {error}") from error
    return [cell.strip() for cell in cells]


def _check_class_folders(path: Path) -> None:
    """Folders that are no classes are what users get wrong, and `datasets` answers with a missing column.

    Raises:
        DataError: if the folder has images but no class folders, or a single one.
    """
    if is_saved_to_disk(path) or any(path.glob("metadata.*")) or any(path.rglob("*.parquet")):
        return
    folders = [folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    if {folder.name.lower() for folder in folders} & _SPLITS:
        folders = [
            inner
            for folder in folders
            for inner in folder.iterdir()
            if inner.is_dir() and not inner.name.startswith(".")
        ]
    classes = sorted({folder.name for folder in folders})
    if not classes:
        raise DataError(
            f"--data: {path}: got a folder without sub-folders, wanted one for each class, named after it, with its "
            "images in it (train/ and test/ may lie above them)"
        )
    if len(classes) == 1:
        raise DataError(f"--data: {path}: got the one class {classes[0]!r}, wanted sub-folders of at least two")


def _images(request: AuditRequest, on_progress: OnProgress | None) -> Findings:
    # A folder of the user's own that is called as the data set that comes with taster is meant as the folder.
    source = f"./{request.data}" if request.data == DIGITS and Path(DIGITS).is_dir() else request.data
    section: dict[str, Any] = {"source": source}
    for key in ("config", "image", "label", "color"):
        if getattr(request, key) is not None:
            section[key] = getattr(request, key)
    if request.resize is not None:
        section["resize"] = list(request.resize)
    try:
        found = load_images(
            source,
            config=request.config,
            image=request.image,
            label=request.label,
            resize=request.resize,
            color=request.color,
            on_progress=on_progress,
        )
    except DataError as error:
        text = str(error).replace("data.resize = [height, width]", "--resize HEIGHTxWIDTH")
        text = text.replace("data.color = 'gray' or 'rgb'", "--color gray or --color rgb")
        text = text.replace("data.image", "--image").replace("data.label", "--label")
        if not Path(request.data).expanduser().exists() and not is_import_path(request.data):
            text += f"; nor is there a file or folder {request.data} here"
        raise DataError(f"--data: {text}") from error
    if found.class_names:
        section["class_names"] = list(found.class_names)
    test = None if found.test is None else len(found.test)
    return _found(request, section, "images", found, found.train.y.tolist(), test, found.shape, found.classes)


def _table(request: AuditRequest) -> Findings:
    if request.resize is not None or request.color is not None:
        raise DataError(f"--resize, --color: {request.data} is a table without a column of paths, wanted images")
    last_or_named = LABEL_COLUMN if LABEL_COLUMN in _first_row(Path(request.data).expanduser()) else -1
    label = last_or_named if request.label is None else _column(request.label)
    text = None if request.text is None else _column(request.text)
    try:
        found = load_table(request.data, label=label, text=text)
    except DataError as error:
        raise DataError(f"--data: {error}") from error
    table: dict[str, Any] = {"label": label}
    if text is not None:
        table["text"] = text
    section = {"source": request.data, "table": table, "class_names": list(found.class_names)}
    shape = () if found.numbers is None else tuple(found.numbers.shape[1:])
    kind = f"rows of {shape[0]} numbers" if shape else "texts"
    return _found(request, section, kind, found, found.y.tolist(), None, shape, len(found.class_names))


def _column(name: str) -> str | int:
    """A column of a table by its name, or its position where that is a whole number."""
    return int(name) if re.fullmatch(r"-?\d{1,6}", name) else name


def _found(
    request: AuditRequest,
    section: dict[str, Any],
    kind: str,
    loaded: ImageSet | Table,
    labels: list[int],
    test: int | None,
    shape: tuple[int, ...],
    classes: int,
) -> Findings:
    counts = Counter(labels)
    if len(counts) < 2:
        raise DataError(f"--data: {request.data}: got {len(labels)} samples of one class, wanted at least two classes")
    return Findings(
        section,
        kind,
        len(labels),
        test,
        shape,
        classes,
        100 * max(counts.values()) / len(labels),
        min(counts, key=lambda place: (counts[place], place)),
        loaded,
    )
