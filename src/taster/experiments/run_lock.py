"""A lock on a run directory: one process at a time writes to it. It ends with its process, however that ends."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from taster.errors import RunDirectoryError

LOCK_NAME = ".lock"
"""The file in a run directory. It is there while the lock is held; one that a killed process left locks nothing."""

_ATTEMPTS = 5
_PAUSE = 0.02  # seconds

if sys.platform == "win32":
    import msvcrt

    # A byte behind what the file holds, so that others can read who holds it.
    _LOCKED_BYTE = 2**20

    def _try_lock(file: IO[str]) -> None:
        os.lseek(file.fileno(), _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _try_lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Holds the directory's lock.

    Raises:
        RunDirectoryError: if another process holds it, saying which and since when; or if the directory cannot be
            written or its file system has no locks.
    """
    path = directory / LOCK_NAME
    try:
        file = _acquire(path)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK) and path.is_file() and os.access(path, os.W_OK):
            raise RunDirectoryError(
                f"{directory}: {_holder(path)}; wait for it to end, or give another --out"
            ) from None
        raise RunDirectoryError(f"{directory}: cannot be locked: {error.strerror or error}") from error
    try:
        yield
    finally:
        # On POSIX the name goes first, so that nobody locks a file that is about to lose its name.
        if sys.platform != "win32":
            path.unlink(missing_ok=True)
        file.close()
        with suppress(OSError):
            if sys.platform == "win32":
                path.unlink(missing_ok=True)


def is_locked(directory: Path) -> bool:
    """Whether a process holds the directory's lock."""
    path = directory / LOCK_NAME
    if not path.is_file():
        return False
    with open(path, "r+", encoding="utf-8") as file:
        try:
            _try_lock(file)
        except OSError:
            return True
    return False


def _acquire(path: Path) -> IO[str]:
    """Opens and locks the file, and writes into it who holds it.

    Raises:
        OSError: if another process holds it, or it cannot be opened.
    """
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (open as long as the lock is held)
        try:
            _lock(file)
            if _same_file(file, path):
                file.seek(0)
                file.truncate()
                json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}, file)
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # its holder ended and removed it in between


def _lock(file: IO[str]) -> None:
    """Locks the file. Tries again for a moment, as `is_locked` holds it for an instant too."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(OSError):
            _try_lock(file)
            return
        time.sleep(_PAUSE)
    _try_lock(file)


def _same_file(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"process {held['pid']} on {held['host']} has been running in it since {held['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process is running in it"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
