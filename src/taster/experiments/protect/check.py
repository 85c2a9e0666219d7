"""Whether a folder of protected copies is still what was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from taster.errors import DataError
from taster.experiments.protect.image_files import read_picture
from taster.experiments.protect.levels import distance, is_within
from taster.experiments.protect.manifest import IMAGES, Entry, Manifest, read_manifest, sha256_of
from taster.perturbations.pgd import LpBall


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        manifest: of the folder.
        faults: one line each; none where all is as it was written.
        greatest: the largest distance of a copy from its original, of 1; None where these were not given.
    """

    manifest: Manifest
    faults: tuple[str, ...]
    greatest: float | None


def check_folder(folder: Path, originals: Path | None = None) -> Checked:
    """Looks whether every copy is there, unchanged and, where the originals are given, near enough to its original.

    Args:
        folder: that taster protect wrote.
        originals: the folder that it was made of.

    Raises:
        DataError: if the folder has no protect.json that can be read, or there is no folder of originals.
    """
    manifest = read_manifest(folder)
    if originals is not None and not originals.is_dir():
        raise DataError(f"{originals}: no such folder, wanted that of the originals")
    ball, faults, distances = LpBall(manifest.norm, manifest.epsilon), [], []
    for entry in manifest.files:
        fault = _of_copy(folder, entry)
        if fault is None and originals is not None:
            found = _from_original(folder, originals, entry, ball, strip_exif=manifest.exif == "dropped")
            if isinstance(found, str):
                fault = found
            else:
                distances.append(found)
        if fault is not None:
            faults.append(fault)
    there = {path.relative_to(folder / IMAGES).as_posix() for path in (folder / IMAGES).rglob("*") if path.is_file()}
    more = sorted(there - {entry.file for entry in manifest.files})
    faults += [f"{IMAGES}/{name}: was not written by taster protect" for name in more]
    return Checked(manifest, tuple(faults), None if originals is None else max(distances, default=0.0))


def _of_copy(folder: Path, entry: Entry) -> str | None:
    path = folder / IMAGES / entry.file
    if not path.is_file():
        return f"{IMAGES}/{entry.file}: is missing"
    return None if sha256_of(path) == entry.sha256 else f"{IMAGES}/{entry.file}: has changed since it was written"


def _from_original(folder: Path, originals: Path, entry: Entry, ball: LpBall, *, strip_exif: bool) -> float | str:
    """The distance of a copy from its original, or what is wrong."""
    path = originals / entry.original
    if not path.is_file():
        return f"{entry.original}: the original is missing"
    if sha256_of(path) != entry.original_sha256:
        return f"{entry.original}: the original has changed since"
    original, copy = read_picture(path, strip_exif=strip_exif), read_picture(folder / IMAGES / entry.file)
    original = original.in_colour() if len(copy.pixels) == 3 else original
    if original.pixels.shape != copy.pixels.shape or not _equal(original.alpha, copy.alpha):
        return f"{IMAGES}/{entry.file}: has another size or transparency than {entry.original}"
    if not is_within(copy.pixels, original.pixels, ball):
        return f"{IMAGES}/{entry.file}: is further from its original than ε"
    return distance(copy.pixels, original.pixels, ball)


def _equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)
