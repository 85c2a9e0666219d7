"""protect.json: which files were written, of what, and how."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from taster.core.format_version import Format
from taster.errors import DataError, RunDirectoryError
from taster.experiments.files import read_json
from taster.perturbations.pgd import Norm

NAME = "protect.json"
PAGE = "protect.html"
IMAGES = "images"
"""The folder of the copies, beside protect.json and the page."""


PROTECTED = Format("protected copies", 1, DataError, unmarked=None)
"""In protect.json."""

_LONGEST = 255
"""Bytes of a part of a path, which no common file system has more of."""

FILE_NAME = (
    "a path inside of the folder, in Unicode, without \\, NUL and : before the first /, and at most "
    f"{_LONGEST} bytes between two /"
)
"""What `is_file_name` takes, for messages."""


def is_file_name(name: str) -> bool:
    """Whether protect.json can name a file so, wherever the folder is copied to."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or set(name) & {"\\", "\0"} or not path.parts or ":" in path.parts[0]:
        return False
    try:
        return all(len(part.encode()) <= _LONGEST for part in path.parts)
    except UnicodeEncodeError:  # bytes of a file name that are no UTF-8
        return False


def _inside(name: str) -> str:
    if not is_file_name(name):
        raise ValueError(FILE_NAME)
    return name


_Name = Annotated[str, Field(min_length=1), AfterValidator(_inside)]
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Entry(_Part):
    """One copy: its name under images/, the name of its original under the folder of originals, and SHA-256 of both."""

    file: _Name
    sha256: _Hash
    original: _Name
    original_sha256: _Hash


class Manifest(_Part):
    """The content of protect.json.

    Attributes:
        taster_format: of this form.
        taster: the version that wrote it.
        method, settings, seed: what made the noise.
        norm, epsilon: the ball that it is in, of 1.
        size: height and width that the noise was made at.
        exif: whether it was dropped, and the pixels turned as it says.
        files: the copies.
    """

    taster_format: int = PROTECTED.version
    taster: str
    method: str
    settings: dict[str, Any]
    seed: int
    norm: Norm
    epsilon: Annotated[float, Field(ge=0)]
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    exif: Annotated[str, Field(pattern="^(kept|dropped)$")]
    files: list[Entry]


_SHAPE = TypeAdapter(Manifest)


def read_manifest(folder: Path) -> Manifest:
    """Reads protect.json of a folder.

    Raises:
        DataError: if there is none, or it is something else or of a newer format.
    """
    if not (folder / NAME).is_file():
        raise DataError(f"{folder}: no {NAME} in it, wanted a folder that taster protect wrote")
    try:
        return read_json(folder / NAME, _SHAPE, PROTECTED)
    except RunDirectoryError as error:
        raise DataError(str(error).replace("taster run writes", "taster protect writes")) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
