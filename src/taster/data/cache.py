"""Decoded data sets on disk, keyed by the content they were decoded from."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from taster.core.checkpoint import load_state, save_state
from taster.data.images import Images, ImageSet
from taster.errors import TasterError

# Incremented when images are decoded differently, which invalidates the caches.
_DECODER = 2

_logger = logging.getLogger(__name__)

S = TypeVar("S")


def cache_directory() -> Path:
    """$TASTER_CACHE, or the folder "taster" in the user's cache directory."""
    own = os.environ.get("TASTER_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taster"


def content_key(path: Path, *choices: object) -> str:
    """A digest of a file, or of the names and contents of all files in a folder, and of the choices made."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return files_key({str(file.relative_to(path)): file for file in files}, *choices)


def files_key(files: Mapping[str, Path], *choices: object) -> str:
    """A digest of the names and contents of files, in their order, and of the choices made."""
    digest = hashlib.sha256(repr((_DECODER, choices)).encode())
    for name, file in files.items():
        digest.update(name.encode())
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:32]


def splits_key(splits: Mapping[str, Any], *choices: object) -> str:
    """`content_key` for a data set of the hub, by the fingerprints that `datasets` keeps of its splits."""
    prints = {name: split._fingerprint for name, split in sorted(splits.items())}
    return hashlib.sha256(repr((_DECODER, choices, prints)).encode()).hexdigest()[:32]


def cached_image_set(key: str, name: str, load: Callable[[], ImageSet]) -> ImageSet:
    """What `load` returns, cached on disk; see `cached_file`."""

    def pack(loaded: ImageSet) -> dict[str, Any]:
        parts = [None if part is None else {"x": part.x, "y": part.y} for part in (loaded.train, loaded.test)]
        return {"parts": parts, "classes": loaded.classes, "class_names": list(loaded.class_names)}

    def unpack(state: Any) -> ImageSet:
        train, test = (None if part is None else Images(part["x"], part["y"]) for part in state["parts"])
        if train is None:
            raise ValueError("it has no images to train with")
        return ImageSet(name, train, test, state["classes"], tuple(state["class_names"]))

    return cached_file(cache_directory() / f"{key}.safetensors", "decoded data set", load, pack, unpack)


def cached_file(
    path: Path, what: str, make: Callable[[], S], pack: Callable[[S], Any], unpack: Callable[[Any], S]
) -> S:
    """What `make` returns, cached in a file.

    A file that is damaged or cannot be written causes a warning and no more: the cache only saves time.

    Args:
        path: the file.
        what: what it holds, for the warnings.
        make: makes the value if it is not cached.
        pack: converts the value to a state for `taster.save_state`.
        unpack: converts the state to the value; an exception means that the file is damaged.
    """
    if path.exists():
        try:
            return unpack(load_state(path))
        except (TasterError, AttributeError, LookupError, TypeError, ValueError) as error:
            _logger.warning("the %s kept in %s is damaged and will be made again: %s", what, path, error)
    made = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_state(path, pack(made))
    except OSError as error:
        _logger.warning("the %s is not kept, it will be made again next time: %s", what, error)
    return made
