"""The claim of a run to its directory: that it is free, or holds the run to be continued, and that nobody else runs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from taster.errors import RunDirectoryError
from taster.experiments.run_directory import RunDirectory


class Claim:
    """A run's claim to its directory, held by a lock as long as the context lasts.

    A run to be continued is locked at once. A new one writes nothing before `begin_new`, so that a recipe with faults
    leaves no trace.

    Args:
        run: the directory.
        resume: whether to continue a run that is there.

    Raises (on entering):
        RunDirectoryError: if another process runs in the directory, it is neither free nor to be continued, or its name
            is no Unicode.
    """

    def __init__(self, run: RunDirectory, *, resume: bool) -> None:
        self._run = run
        self._resume = resume
        self._held = ExitStack()
        self.resumed = False

    def __enter__(self) -> Claim:
        _check_name(self._run.path)
        if self._resume and self._run.exists():
            self._held.enter_context(self._run.lock())
            self.resumed = True
        else:
            self._check_empty()
            if self._run.path.is_dir():
                with self._run.lock():  # fails if another process has claimed it
                    pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.close()

    def begin_new(self) -> None:
        """Locks the directory for a new run.

        Raises:
            RunDirectoryError: if another process has begun a run in it by now.
        """
        self._held.enter_context(self._run.lock())
        self._check_empty()

    def _check_empty(self) -> None:
        if not self._run.is_empty():
            hint = "go on with --resume" if self._run.exists() else "it is not a run directory"
            raise RunDirectoryError(f"{self._run.path}: not empty ({hint}); wanted a new or empty directory")


def _check_name(path: Path) -> None:
    """Raises RunDirectoryError for a path that safetensors could write to and not read from."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise RunDirectoryError(f"{path}: got a path that is no Unicode, wanted one in UTF-8: rename it") from error
