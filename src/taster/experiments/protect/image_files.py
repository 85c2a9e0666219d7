"""Image files in a folder with a sub-folder for each class: found, read and written without loss."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from taster.errors import DataError
from taster.experiments.protect.manifest import FILE_NAME, is_file_name

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ["PNG", "JPEG", "WEBP"]  # Pillow opens MPO, a JPEG of a phone with a preview behind it, as a JPEG
_SHOWN = 3
_PROFILE_COLOURS = slice(16, 20)
"""Where an ICC profile names its kind of colours (ICC.1:2010, 7.2.8)."""
_DEEP = (";16", ";12", ";10")  # of Pillow's raw modes, whose low bits it drops without a word


@dataclass(frozen=True)
class FoundImages:
    """The images of a folder.

    Attributes:
        folder: where they are.
        names: of the files, relative to the folder, with "/", in ascending order.
        labels: of each, places in `class_names`.
        class_names: of the sub-folders.
        others: how many files there are besides, which are left alone.
    """

    folder: Path
    names: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    others: int

    def __len__(self) -> int:
        return len(self.names)

    def path(self, place: int) -> Path:
        """Of one of the files."""
        return self.folder / self.names[place]

    def copy_name(self, place: int) -> str:
        """The name of the protected copy of one of the files: its own, ending in .png."""
        return str(PurePosixPath(self.names[place]).with_suffix(".png"))


def find_images(folder: Path) -> FoundImages:
    """Looks for images in the sub-folders of a folder, at any depth; the first level tells the classes. What is hidden
    (a name that begins with a dot) is left alone, and links to folders are not followed.

    Args:
        folder: where to look.

    Raises:
        DataError: unless there are images in at least two sub-folders, none outside of them, each a file with a name
            that protect.json can hold, and none whose copies would have the same name.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, wanted one with a sub-folder of images for each class")
    names, others = [], 0
    for at, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(_ENDINGS) and not name.startswith("."):
                names.append((Path(at) / name).relative_to(folder).as_posix())
            else:
                others += not name.startswith(".")
    names.sort()
    _check_files(folder, names)
    outside = [name for name in names if "/" not in name]
    classes = sorted({name.split("/")[0] for name in names if "/" in name})
    if outside or len(classes) < 2:
        raise DataError(
            f"{folder}: got {len(names)} images in {len(classes)} sub-folders, {len(outside)} of them in none; wanted "
            "all in sub-folders, one for each class (person, product, kind), and at least two: the noise is made to "
            "tell the classes apart. Endings: " + ", ".join(_ENDINGS)
        )
    found = FoundImages(
        folder, tuple(names), tuple(classes.index(name.split("/")[0]) for name in names), tuple(classes), others
    )
    copies = Counter(found.copy_name(place).casefold() for place in range(len(found)))
    twice = [name for place, name in enumerate(names) if copies[found.copy_name(place).casefold()] > 1]
    if twice:
        raise DataError(
            f"{folder}: {some(twice)}: got files whose copies would have one name, as a.jpg and a.png; wanted "
            "another name for each, whatever its ending"
        )
    return found


def _check_files(folder: Path, names: list[str]) -> None:
    """Raises DataError for what has the name of an image and is none, and for names that protect.json cannot hold."""
    odd = [name for name in names if not is_file_name(name)]
    if odd:
        raise DataError(f"{folder}: {some([repr(name) for name in odd])}: got such names, wanted {FILE_NAME}: rename")
    # To read from a pipe is to wait for ever.
    nothing = [name for name in names if not (folder / name).is_file()]
    if nothing:
        raise DataError(
            f"{folder}: {some(nothing)}: got what is no file (a link to nothing, a pipe), wanted an image: move it out"
        )


def some(names: list[str]) -> str:
    """The first of several names, for a message."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True, eq=False)
class Picture:
    """One image, as its file has it.

    Attributes:
        pixels: uint8 [1 or 3, height, width].
        alpha: uint8 [height, width]; None where it is opaque.
        exif: without the preview that cameras put there; empty where there is none.
        profile: the ICC profile that tells what the colours mean; None where there is none.
    """

    pixels: Tensor
    alpha: Tensor | None
    exif: bytes
    profile: bytes | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    def in_colour(self) -> Picture:
        """The same in three channels, without a profile of gray ones."""
        if len(self.pixels) == 3:
            return self
        # A profile says of which kind of colours it is; of gray it would make the colour image invalid.
        profile = None if (self.profile or b"")[_PROFILE_COLOURS] == b"GRAY" else self.profile
        return Picture(self.pixels.expand(3, -1, -1).contiguous(), self.alpha, self.exif, profile)

    def scaled(self, size: tuple[int, int]) -> Tensor:
        """The pixels at another height and width, floating point [1 or 3, height, width] from 0 to 1."""
        x = self.pixels.float()[None] / 255
        if self.size != size:
            x = interpolate(x, size, mode="bilinear", antialias=True).clamp(0, 1)
        return x[0]

    def write(self, path: Path, pixels: Tensor) -> None:
        """Writes a PNG with other pixels, and with transparency, EXIF and profile of this one.

        Args:
            path: of the file; its folder is made.
            pixels: shaped as `pixels`.
        """
        layers = pixels if self.alpha is None else torch.cat([pixels, self.alpha[None]])
        array = layers.permute(1, 2, 0).numpy()
        image = Image.fromarray(array[:, :, 0] if len(layers) == 1 else array)  # L, LA, RGB or RGBA
        path.parent.mkdir(parents=True, exist_ok=True)
        more: dict[str, Any] = {"exif": self.exif} if self.exif else {}
        image.save(path, "PNG", icc_profile=self.profile, **more)


def read_picture(path: Path, *, strip_exif: bool = False) -> Picture:
    """Reads an image file.

    Palettes are resolved, and bilevel images are gray. Where EXIF says how the camera was held and EXIF is dropped, the
    pixels are turned.

    Args:
        path: of a PNG, JPEG or WebP file.
        strip_exif: whether EXIF is dropped.

    Raises:
        DataError: if it cannot be read as one, moves, or has more than 8 bits a channel or other colours than RGB and
            gray.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            assert isinstance(image, ImageFile.ImageFile)
            _check_form(image, path)
            image.load()
            exif = b"" if strip_exif else _without_preview(image)
            profile = image.info.get("icc_profile")
            layers = _layers(ImageOps.exif_transpose(image) if strip_exif else image)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: got no PNG, JPEG or WebP in spite of its name: move it out, or convert it") from error
    except Exception as error:  # Pillow raises many kinds, struct.error and SyntaxError among them
        raise DataError(f"{path}: cannot be read as an image ({type(error).__name__}: {error})") from error
    x = torch.from_numpy(np.array(layers))
    x = (x[:, :, None] if x.dim() == 2 else x).permute(2, 0, 1).contiguous()
    transparent = layers.mode in ("LA", "RGBA")
    return Picture(x[:-1] if transparent else x, x[-1] if transparent else None, exif, profile)


def _check_form(image: ImageFile.ImageFile, path: Path) -> None:
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise DataError(f"{path}: got an animation, wanted a still image: move it out of the folder")
    depth = " ".join(str(part) for tile in image.tile for part in tile)
    if image.mode.startswith(("I", "F")) or any(mark in depth for mark in _DEEP):
        raise DataError(f"{path}: got more than 8 bits a channel, wanted 8: convert it first")
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"):
        raise DataError(f"{path}: got colours of the kind {image.mode}, wanted RGB or gray: convert it first")


def _without_preview(image: Image.Image) -> bytes:
    """The EXIF without its second directory, whose small image would show what is to be protected."""
    exif = image.getexif()
    return exif.tobytes() if len(exif) else b""


def _layers(image: Image.Image) -> Image.Image:
    """As L, LA, RGB or RGBA."""
    transparent = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert({"La": "LA"}.get(image.mode, "LA" if transparent else "L"))
    return image.convert("RGBA" if transparent else "RGB")
