"""Decoded data sets on disk, keyed by the content they were decoded from."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from taster.checkpoint import load_state, save_state
from taster.data.images import Images, ImageSet
from taster.errors import CheckpointError, DataError

# Goes up when images are decoded in another way, so that what lies in caches is made anew.
_DECODER = 1

logger = logging.getLogger(__name__)


def cache_directory() -> Path:
    """$TASTER_CACHE, or taster's folder in the user's cache directory."""
    own = os.environ.get("TASTER_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taster"


def content_key(path: Path, *choices: str | None) -> str:
    """A digest of a file's, or of all files' bytes below a folder, with their names, and of the choices made."""
    digest = hashlib.sha256(repr((_DECODER, choices)).encode())
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        digest.update(str(file.relative_to(path)).encode())
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:32]


def splits_key(splits: Mapping[str, Any], *choices: str | None) -> str:
    """The same for a data set of the hub, by the fingerprints that `datasets` keeps of its splits."""
    prints = {name: split._fingerprint for name, split in sorted(splits.items())}
    return hashlib.sha256(repr((_DECODER, choices, prints)).encode()).hexdigest()[:32]


def cached(key: str, name: str, load: Callable[[], ImageSet]) -> ImageSet:
    """What `load` returns, read back from disk where it has been loaded before.

    A cache that is damaged or cannot be written is passed over with a warning: it only saves time.
    """
    path = cache_directory() / f"{key}.safetensors"
    if path.exists():
        try:
            state = load_state(path)
            train, test = (None if part is None else Images(part["x"], part["y"]) for part in state["parts"])
            if train is not None:
                return ImageSet(name, train, test, classes=state["classes"])
        except (CheckpointError, DataError, KeyError, TypeError, ValueError) as error:
            logger.warning("the cached data set %s is damaged and will be made again: %s", path, error)
    loaded = load()
    parts = [None if part is None else {"x": part.x, "y": part.y} for part in (loaded.train, loaded.test)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_state(path, {"parts": parts, "classes": loaded.classes})
    except OSError as error:
        logger.warning("the decoded data set is not kept, it will be decoded again next time: %s", error)
    return loaded
