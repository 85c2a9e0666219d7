"""Images named one a row in a file of comma- or tab-separated values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageOps

from taster.data.tables import load_table
from taster.errors import DataError

_ENDINGS = (".csv", ".tsv", ".tab")
_SHOWN = 3
IMAGE_COLUMN, LABEL_COLUMN = "path", "label"
"""What the columns are called by default."""


@dataclass(frozen=True)
class LabelledFiles:
    """A map-style data set of (image, label).

    Attributes:
        files: of the images.
        labels: places in `class_names`.
        class_names: the labels as the file has them.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        """The decoded image, upright as the camera says that it is, and its label.

        Raises:
            DataError: if the file is no image that Pillow can read.
        """
        try:
            with Image.open(self.files[row]) as image:
                image.load()
                turned = image.getexif().get(ExifTags.Base.Orientation) is not None
                return ImageOps.exif_transpose(image) if turned else image, self.labels[row]
        except Exception as error:  # Pillow raises many kinds, struct.error and SyntaxError among them
            raise DataError(
                f"{self.files[row]}: cannot be read as an image ({type(error).__name__}: {error})"
            ) from error


def is_value_file(path: Path) -> bool:
    """Whether the name is that of a file of comma- or tab-separated values."""
    return path.suffix.lower() in _ENDINGS


def read_labelled_files(path: Path, *, image: str | None = None, label: str | None = None) -> LabelledFiles:
    """Reads which images there are, and their labels; the images themselves are read when they are asked for.

    Args:
        path: of a file whose first row names the columns.
        image: column of the images' paths, relative to the file's folder. Default: "path".
        label: column of the labels, which are taken as names. Default: "label".

    Raises:
        DataError: see `taster.data.load_table`; and for images that are not there.
    """
    table = load_table(path, label=label or LABEL_COLUMN, text=image or IMAGE_COLUMN, header=True)
    assert table.texts is not None
    files = tuple(path.parent / name.strip() for name in table.texts)
    missing = [file for file in files if not file.is_file()]
    if missing:
        shown = ", ".join(str(file) for file in missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise DataError(
            f"{path}: {len(missing)} of {len(files)} images are not there: {shown}; wanted paths relative to the "
            f"folder {path.parent}"
        )
    return LabelledFiles(files, tuple(table.y.tolist()), table.class_names)
