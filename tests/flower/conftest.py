"""Flower's tests tell nobody of themselves, and are left out aloud where the extra is not installed."""

from __future__ import annotations

import os

import pytest

os.environ.update(
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DISABLE_IMPORT_WARNING="1",
)
pytest.importorskip("flwr", reason='needs the extra: pip install "taster[flower]"')
