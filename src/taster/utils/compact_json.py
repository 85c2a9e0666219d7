"""JSON with one line for each entry of the lists at its top: small, and readable in a diff."""

from __future__ import annotations

import json
from typing import Any


def dump_compact(content: dict[str, Any]) -> str:
    """The object as JSON; each entry of a list that is one of its values gets a line of its own."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list) and value:
            lines = ",\n".join(_dump(entry) for entry in value)
            parts.append(f"{_dump(key)}: [\n{lines}\n]")
        else:
            parts.append(f"{_dump(key)}: {_dump(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
