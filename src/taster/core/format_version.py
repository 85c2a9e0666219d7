"""Format versions: what is written says in which form, and whoever reads it asks first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from taster.errors import TasterError

KEY = "taster_format"
"""Under it everything that is kept says its version."""


@dataclass(frozen=True)
class Format:
    """The form of something that is kept: a file, a folder, a dictionary of state.

    Its version is a whole number that grows by one whenever what is written can no longer be read by the code before.
    Parts that old code may leave aside are no reason; `docs/versions.md` has the policy.

    Attributes:
        what: is kept, for messages: "a checkpoint".
        version: that is written.
        error: what is raised of another version.
        oldest: that is still read.
        unmarked: the version of what says none, as taster 0.1 wrote it; None if there was nothing of the kind.
        remedy: what to do with what is older than `oldest`.
    """

    what: str
    version: int
    error: type[TasterError]
    oldest: int = 1
    unmarked: int | None = 1
    remedy: str = "make it again"

    def mark(self) -> dict[str, int]:
        """The entry that is written."""
        return {KEY: self.version}

    def check(self, found: Any, where: str = "") -> int:
        """The version of what was found.

        Args:
            found: what stands under `KEY`; None if nothing does.
            where: the file, for the message.

        Raises:
            TasterError: `error`, if it is newer than this taster, older than the oldest that is read, or no version.
        """
        at = f"{where}: " if where else ""
        if found is None and self.unmarked is not None:
            return self.unmarked
        if type(found) is not int or found < 1:
            raise self.error(f"{at}got {found!r:.80} as {KEY} of {self.what}, wanted a whole number of at least 1")
        if found > self.version:
            raise self.error(
                f"{at}got {self.what} of format {found}, this taster reads up to {self.version}: a newer one wrote it; "
                'install that (pip install --upgrade "taster")'
            )
        if found < self.oldest:
            raise self.error(
                f"{at}got {self.what} of format {found}, this taster reads from {self.oldest} on: {self.remedy}, or "
                "read it with the taster that wrote it"
            )
        return found


def fault_text(error: Exception) -> str:
    """What an error says that was raised while something misshapen was taken apart: of a missing key its name alone is
    told, which is no sentence."""
    if isinstance(error, KeyError) and error.args:
        return f"it has no {error.args[0]!r:.80}"
    return f"{type(error).__name__}: {error}"
