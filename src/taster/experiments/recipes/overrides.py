"""Single values of a recipe changed from the command line: `--set key=value`."""

from __future__ import annotations

import tomllib
from typing import Any

from taster.errors import RecipeError


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets one value by its path: `burn_in.epochs=5`, `attack.0.epsilon=0.1` or `attack.accumulative.epsilon=0.1`.

    Args:
        raw: the recipe as TOML gives it; changed in place.
        change: key=value. The value is read as TOML, and as text where it is none.

    Raises:
        RecipeError: when the path leads nowhere, or the entry it names is not the only one.
    """
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set: got {override!r}, wanted key=value, as in burn_in.epochs=5")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is text
    node: Any = raw
    for i, key in enumerate(keys):
        last = i == len(keys) - 1
        if isinstance(node, list):
            node = _member(node, key, override)
            if last:
                raise RecipeError(f"--set: got {override!r}, wanted a key of the entry, as in {path}.epsilon=0.1")
            continue
        if not isinstance(node, dict):
            raise RecipeError(f"--set: got {override!r}, but {'.'.join(keys[:i])} has no keys below it")
        if last:
            node[key] = value
        else:
            node = node.setdefault(key, {})


def _member(entries: list[Any], key: str, change: str) -> Any:
    """The entry with this number or label, or the only one with this name."""
    named = [e for i, e in enumerate(entries) if key == str(i)]
    named = named or [e for e in entries if e.get("label", e.get("name")) == key]
    named = named or [e for e in entries if e.get("name") == key]
    if len(named) == 1:
        return named[0]
    have = ", ".join(f"{i} ({entry.get('label', entry.get('name'))})" for i, entry in enumerate(entries))
    raise RecipeError(f"--set: got {change!r}, wanted an entry by number or label: {have}")
