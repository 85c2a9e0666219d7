"""A run in TensorBoard (extra `tracking`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taster.errors import TrackingError
from taster.integrations.tracking.tracker import finite_numbers, plain_name, require


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
