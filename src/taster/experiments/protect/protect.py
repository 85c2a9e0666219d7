"""From a folder of images to a folder of protected copies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from secrets import token_hex

import torch
from torch import Tensor
from torch.nn.functional import interpolate

import taster
from taster.attacks import DatasetKnowledge
from taster.core.batch import Batch
from taster.core.checkpoint import write_atomically
from taster.errors import AttackError, DataError
from taster.experiments.protect.image_files import FoundImages, find_images, read_picture, some
from taster.experiments.protect.levels import add_noise, most_levels
from taster.experiments.protect.manifest import IMAGES, NAME, PAGE, Entry, Manifest, read_manifest, sha256_of
from taster.experiments.protect.methods import Method
from taster.experiments.protect.victim import small_training
from taster.utils.seeds import derived_seed, generator, seeded

_OWN_SIZE = 64
"""Height or width in pixels up to which noise is made for images as they are."""

_SIZE = (32, 32)
_SMALLEST = 8
_CRAFTING_EPOCHS = 20


@dataclass(frozen=True)
class ProtectRequest:
    """What is to be protected, and how.

    Attributes:
        images: the folder of originals.
        out: the folder to write.
        method: makes the noise.
        size: height and width that the noise is made at, and enlarged from; None: that of the images where all have one
            of at most 64 pixels a side, else 32 x 32.
        strip_exif: whether copies are without EXIF.
        force: whether a folder that taster protect wrote may be replaced.
        seed: of all that is drawn.
    """

    images: Path
    out: Path
    method: Method
    size: tuple[int, int] | None = None
    strip_exif: bool = False
    force: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Protection:
    """What was written.

    Attributes:
        request: what was asked for.
        found: the originals.
        size: height and width that the noise was made at.
        clean: the originals at that size, [n, c, h, w] from 0 to 1.
        protected: the copies at that size, as a scraper would read them, likewise.
        labels: int64 [n].
        resized: how many images have another size.
    """

    request: ProtectRequest
    found: FoundImages
    size: tuple[int, int]
    clean: Tensor
    protected: Tensor
    labels: Tensor
    resized: int


def protect_folder(request: ProtectRequest) -> Protection:
    """Makes noise for the images of a folder, and writes copies that carry it: images/ with the names of the originals,
    ending in .png, and protect.json. The folder appears whole or not at all; originals are only read.

    Args:
        request: what is to be protected, and how.

    Raises:
        DataError: for a folder or a file that cannot be used, and for a folder to write that is there already.
        AttackError: for noise that 8 bits or other sizes do not allow, and by the method.
        OSError: if a file cannot be written, as on a full disk.
    """
    _check_out(request)
    most_levels(request.method.ball)
    found = find_images(request.images)
    clean, size, resized = _read(found, request)
    labels = torch.tensor(found.labels)
    with _replaced_whole(request) as folder:  # made before the noise: what cannot be written is told at once
        noise = _craft(Batch(clean, labels), found, request)
        protected = _write(folder, found, noise, clean, size, request)
    return Protection(request, found, size, clean, protected, labels, resized)


def _check_out(request: ProtectRequest) -> None:
    """Raises DataError if the folder must not be written."""
    try:
        out, images = request.out.resolve(), request.images.resolve()
        out.exists()
    except (OSError, RuntimeError) as error:  # a name too long, links that lead to themselves
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"--out: {request.out!s:.200} cannot be used: {reason}") from error
    if out == images or out in images.parents or images in out.parents:
        raise DataError(
            f"--out: got {request.out}, which holds the originals or lies among them; wanted a folder beside"
        )
    here = Path.cwd()
    if out == here or out in here.parents:
        raise DataError(f"--out: got {request.out}, which you are in; wanted a folder inside of it, or beside")
    if request.out.is_symlink():
        raise DataError(f"--out: got {request.out}, a link; wanted a new folder, or the one that it leads to: {out}")
    if not request.out.exists() or (request.out.is_dir() and not any(request.out.iterdir())):
        return
    if not request.force:
        raise DataError(f"--out: {request.out} is there already; wanted a new folder, or --force to replace it")
    if not request.out.is_dir():
        raise DataError(f"--out: {request.out} is no folder, and is not replaced")
    _check_ours(request.out)


def _check_ours(folder: Path) -> None:
    """Raises DataError if taster protect did not write everything in the folder: nothing else is ever removed."""
    ours = {NAME, PAGE, IMAGES}
    for entry in read_manifest(folder).files:
        copy = PurePosixPath(IMAGES, entry.file)
        ours |= {str(copy), *map(str, copy.parents)}
    others = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    others = [name for name in others if name not in ours]
    if others:
        raise DataError(
            f"--out: {folder} holds what taster protect did not write, and is not replaced: {some(others)}; wanted "
            "that moved out, or another folder"
        )


def _read(found: FoundImages, request: ProtectRequest) -> tuple[Tensor, tuple[int, int], int]:
    """The images at one size, that size, and how many have another one."""
    pictures = (read_picture(found.path(i), strip_exif=request.strip_exif) for i in range(len(found)))
    size = request.size
    sizes: list[tuple[int, int]] = []
    colours: list[int] = []
    kept: list[tuple[Tensor, Tensor | None]] = []
    for picture in pictures:
        sizes.append(picture.size)
        colours.append(len(picture.pixels))
        # Small ones are kept until it is known whether all are of one size.
        small = max(picture.size) <= _OWN_SIZE
        kept.append((picture.scaled(size or _SIZE), picture.scaled(picture.size) if small and size is None else None))
    own = size is None and len(set(sizes)) == 1 and max(sizes[0]) <= _OWN_SIZE
    chosen = sizes[0] if own else size or _SIZE
    if min(chosen) < _SMALLEST:
        raise DataError(
            f"{request.images}: got images of {chosen[0]} x {chosen[1]} pixels, wanted at least {_SMALLEST} a side"
        )
    channels = max(colours)
    whole = [whole if own and whole is not None else scaled for scaled, whole in kept]
    x = torch.stack([image.expand(channels, -1, -1) for image in whole])
    resized = sum(size != chosen for size in sizes)
    if resized and request.method.ball.norm != "linf":
        raise AttackError(
            f"norm: got {request.method.ball.norm!r} for images of other sizes than the noise is made at, "
            f"{chosen[0]} x {chosen[1]}; wanted 'linf', which enlarging keeps"
        )
    return x.contiguous(), chosen, resized


def _craft(clean: Batch, found: FoundImages, request: ProtectRequest) -> Tensor:
    """The noise, [n, c, h, w]."""
    shape = (int(clean.x.shape[1]), int(clean.x.shape[2]), int(clean.x.shape[3]))
    # Another net than the scraper's: whoever protects images does not know the weights that others begin with.
    training = small_training(
        shape, len(found.class_names), len(clean), _CRAFTING_EPOCHS, derived_seed(request.seed, "protector")
    )
    # Who protects a folder has no other images of the kind: a method that asks for some gets these.
    knowledge = DatasetKnowledge(
        len(found.class_names), clean, (training,), generator(request.seed, f"protect {request.method.name}")
    )
    with seeded(derived_seed(request.seed, "protect"), clean.x.device):
        perturbed = request.method.attack(clean, knowledge).samples
    noise: Tensor = perturbed.x - clean.x
    return noise


def _write(
    folder: Path,
    found: FoundImages,
    noise: Tensor,
    clean: Tensor,
    size: tuple[int, int],
    request: ProtectRequest,
) -> Tensor:
    """Writes the copies and protect.json; returns the copies at the size of the noise."""
    entries, protected = [], torch.empty_like(clean)
    for place in range(len(found)):
        source = found.path(place)
        picture = read_picture(source, strip_exif=request.strip_exif)
        picture = picture.in_colour() if len(noise[place]) == 3 else picture
        change = interpolate(noise[place][None], picture.size, mode="bilinear")[0]
        pixels = add_noise(picture.pixels, change, request.method.ball)
        target = folder / IMAGES / found.copy_name(place)
        picture.write(target, pixels)
        protected[place] = replace(picture, pixels=pixels).scaled(size)
        entries.append(
            Entry(
                file=found.copy_name(place),
                sha256=sha256_of(target),
                original=found.names[place],
                original_sha256=sha256_of(source),
            )
        )
    manifest = Manifest(
        taster=taster.__version__,
        method=request.method.name,
        settings=request.method.settings,
        seed=request.seed,
        norm=request.method.ball.norm,
        epsilon=request.method.ball.epsilon,
        size=size,
        exif="dropped" if request.strip_exif else "kept",
        files=entries,
    )
    write_atomically(folder / NAME, (manifest.model_dump_json(indent=1) + "\n").encode())
    return protected


@contextmanager
def _replaced_whole(request: ProtectRequest) -> Iterator[Path]:
    """A folder to write into, which takes its place when all is written and is removed if something fails."""
    out = request.out.resolve()  # ".." has no name
    # Names of their own, not from the process's number: in containers that is often the one of a run that was killed.
    own = token_hex(4)
    beside, old = (out.parent / f".protect.{own}.{kind}" for kind in ("partial", "old"))
    made = [path for path in out.parents if not path.exists()]
    try:
        try:
            beside.mkdir(parents=True)
        except OSError as error:
            raise DataError(f"--out: {request.out!s:.200} cannot be made: {error.strerror or error}") from error
        yield beside
        _check_out(request)  # noise takes its time, in which somebody else may have written there
        if out.exists():
            out.rename(old)
        beside.rename(out)
    except BaseException:
        if old.exists():
            old.rename(out)
        shutil.rmtree(beside, ignore_errors=True)
        for path in made:
            with suppress(OSError):  # not made yet, or somebody else has put something there
                path.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)
