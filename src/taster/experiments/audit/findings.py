"""What an audit finds out about data before it makes a recipe for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from taster.data import OnProgress, load_images, load_table
from taster.data.labelled_files import is_value_file
from taster.errors import DataError
from taster.experiments.audit.request import AuditRequest, Scene

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
        channels, side: of images: channels, and the shorter side in pixels; 0 for tables.
        classes: number of them.
        largest: the share of the most frequent class, in %: what is right by always guessing it.
        target: the rarest class that there are samples of; backdoors aim at it, as it gains most.
    """

    section: dict[str, Any]
    kind: str
    train: int
    test: int | None
    shape: tuple[int, ...]
    classes: int
    largest: float
    target: int

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
        count = f"{self.train:,}" + (f" and {self.test:,} for tests" if self.test is not None else "")
        what = f"of {' × '.join(map(str, self.shape))}" if self.shape else ""
        named = f": {', '.join(self.names[:12])}{', ...' if len(self.names) > 12 else ''}" if self.names else ""
        return f"{count} {self.kind} {what} in {self.classes} classes{named}".replace("  ", " ")


def examine(request: AuditRequest, on_progress: OnProgress | None = None) -> Findings:
    """Loads the data and finds out what they are.

    Raises:
        DataError: if they are missing, unreadable, of mixed sizes, or of one class.
    """
    path = Path(request.data).expanduser()
    if is_value_file(path) and path.is_file():
        if _names_images(path, request):
            return _images(request, on_progress)
        return _table(request)
    if path.is_dir():
        _check_class_folders(path)
    return _images(request, on_progress)


def _names_images(path: Path, request: AuditRequest) -> bool:
    """Whether a file of values names images: it has the column that was asked for, or one called "path"."""
    if request.text is not None:
        return False
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = file.readline()
    except (OSError, UnicodeError) as error:
        raise DataError(f"--data: {path}: cannot be read: {error}") from error
    cells = {cell.strip().strip('"') for cell in first.replace("\t", ",").split(",")}
    return (request.image or "path") in cells


def _check_class_folders(path: Path) -> None:
    """Folders that are no classes are what users get wrong, and `datasets` answers with a missing column.

    Raises:
        DataError: if the folder has images but no class folders, or a single one.
    """
    if any(file.suffix.lower() == ".parquet" for file in path.rglob("*")) or any(path.glob("metadata.*")):
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
    # A folder of the user's own that is called as a data set of taster's is meant as the folder.
    own = request.data == "digits" and Path(request.data).is_dir()
    source = "./digits" if own else request.data
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
        raise DataError(f"--data: {text}") from error
    if found.class_names:
        section["class_names"] = list(found.class_names)
    test = None if found.test is None else len(found.test)
    return _found(request, section, "images", found.train.y, test, found.shape, found.classes)


def _table(request: AuditRequest) -> Findings:
    if request.resize is not None or request.color is not None:
        raise DataError(f"--resize, --color: {request.data} is a table without a column of paths, wanted images")
    label: str | int = -1 if request.label is None else request.label
    try:
        found = load_table(request.data, label=label, text=request.text)
    except DataError as error:
        raise DataError(f"--data: {error}") from error
    table: dict[str, Any] = {"label": label}
    if request.text is not None:
        table["text"] = request.text
    section = {"source": request.data, "table": table, "class_names": list(found.class_names)}
    shape = () if found.numbers is None else tuple(found.numbers.shape[1:])
    kind = "rows of numbers" if found.texts is None else "texts"
    return _found(request, section, kind, found.y, None, shape, len(found.class_names))


def _found(
    request: AuditRequest,
    section: dict[str, Any],
    kind: str,
    labels: Tensor,
    test: int | None,
    shape: tuple[int, ...],
    classes: int,
) -> Findings:
    counts = Counter(labels.tolist())
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
    )
