"""Suppression of log messages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def suppress_log_messages(name: str, level: int = logging.ERROR) -> Iterator[None]:
    """Suppresses messages below a level of the logger of this name."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
