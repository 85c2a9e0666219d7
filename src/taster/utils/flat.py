"""Nested JSON as one mapping."""

from __future__ import annotations

from typing import Any


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries and lists, by their path with dots: {"a": [{"b": 1}]} is {"a.0.b": 1}."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {path: value}
    return {k: v for key, inner in items for k, v in flat(inner, f"{path}.{key}" if path else str(key)).items()}
