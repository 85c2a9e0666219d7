"""Loggers of the guard kept silent where a run keeps what they would say."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def suppress_log_messages(name: str, level: int = logging.ERROR) -> Iterator[None]:
    """Inside it, the logger of this name tells nothing under a level: errors alone, by default."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
