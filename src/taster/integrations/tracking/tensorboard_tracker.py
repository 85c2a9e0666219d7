"""A run in TensorBoard (extra `tracking`)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taster.errors import TrackingError
from taster.integrations.tracking.tracker import finite_numbers, plain_name, require


def check_log_folder(directory: Path | str) -> None:
    """Checks that a folder can be written, or made, without making it.

    Raises:
        TrackingError: if it cannot: its name is none, or what is there is no folder or not to be written in.
    """
    there, text = Path(directory), str(directory)
    try:
        text.encode()  # TensorBoard writes names in UTF-8
        if "\0" in text:
            raise TrackingError(f"{text!r:.200}: got a folder with a NUL in its name, wanted one without")
        while not there.exists() and there != there.parent:
            there = there.parent
    except UnicodeEncodeError as error:
        raise TrackingError(f"{text!r:.200}: got a folder whose name is no Unicode, wanted one in UTF-8") from error
    except OSError as error:
        raise TrackingError(f"{text:.200}: cannot be written: {error.strerror or error}") from error
    if not there.is_dir():
        raise TrackingError(f"{text}: cannot be written: {there} is no folder; name another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise TrackingError(f"{text}: cannot be written: nothing may be made in {there}; name another one")


class TensorBoardTracker:
    """One run in TensorBoard: a folder with its events. Settings are a text of it.

    Args:
        directory: of the run; made if missing.

    Raises:
        ExtraError: if TensorBoard is not installed.
        TrackingError: if the folder cannot be written.
    """

    def __init__(self, directory: Path | str) -> None:
        require("tensorboard", "TensorBoard")
        check_log_folder(directory)
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer: Any = SummaryWriter(str(directory))
        except OSError as error:
            raise TrackingError(f"{directory}: cannot be written: {error.strerror or error}") from error

    def log_settings(self, settings: Mapping[str, Any], /) -> None:
        """Keeps settings by name, as one text."""
        text = json.dumps({plain_name(name): str(value) for name, value in settings.items()}, indent=1)
        self._writer.add_text("settings", f"```json\n{text}\n```")

    def log_numbers(self, numbers: Mapping[str, float], step: int, /) -> None:
        """Keeps finite numbers by name, as of a step."""
        for name, value in finite_numbers(numbers).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()
