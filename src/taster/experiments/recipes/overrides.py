"""Single values of a recipe overridden from the command line: `--set key=value`."""

from __future__ import annotations

import tomllib
from typing import Any

from taster.errors import RecipeError
from taster.experiments.recipes.raw_values import MAX_DEPTH, load_toml, shorten

_EXAMPLE = "wanted key=value, as in burn_in.epochs=5"


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets one value by its path: `burn_in.epochs=5`, `attack.0.epsilon=0.1` or `attack.accumulative.epsilon=0.1`.

    Entries of a list are named by number, label or name, whatever characters a label holds. A key of a table may be
    quoted, as in TOML: `burn_in.earlier."a.b"=file`.

    Args:
        raw: the recipe as parsed from TOML; changed in place.
        override: key=value. The value is parsed as TOML, and taken as text if it is not TOML.

    Raises:
        RecipeError: if the path leads nowhere, or the entry it names is not the only one.
    """
    node: Any = raw
    path: list[str] = []
    rest = override
    while True:
        entries = node if isinstance(node, list) else None
        key, separator, rest = _split_key(rest, entries, override)
        path.append(key)
        if len(path) > MAX_DEPTH:
            raise RecipeError(f"--set: got {shorten(override)!r}, wanted a key of at most {MAX_DEPTH} parts")
        if entries is not None:
            node = _find_entry(entries, key, override)
            if separator == "=":
                raise RecipeError(
                    f"--set: got {shorten(override)!r}, wanted a key of the entry, as in {'.'.join(path)}.epsilon=0.1"
                )
        elif not isinstance(node, dict):
            raise RecipeError(f"--set: got {shorten(override)!r}, but {'.'.join(path[:-1])} has no keys below it")
        elif separator == "=":
            node[key] = _parse_value(rest)
            return
        else:
            node = node.setdefault(key, {})


def _split_key(text: str, entries: list[Any] | None, override: str) -> tuple[str, str, str]:
    """The next part of a path, the "." or "=" that ends it, and what follows."""
    text = text.lstrip()
    labels = [label for entry in entries or [] for label in _labels(entry)]
    if (label := _leading_label(text, labels)) is not None:
        key, rest = label, text[len(label) :].lstrip()
    elif text[:1] in ('"', "'"):
        key, closing, rest = text[1:].partition(text[0])
        rest = rest.lstrip() if closing else ""
    else:
        end = min((i for i in (text.find("."), text.find("=")) if i >= 0), default=len(text))
        key, rest = text[:end].strip(), text[end:]
    if not key or rest[:1] not in (".", "="):
        raise RecipeError(f"--set: got {shorten(override)!r}, {_EXAMPLE}")
    return key, rest[0], rest[1:]


def _leading_label(text: str, labels: list[str]) -> str | None:
    """The longest label that the text begins with, followed by a dot."""
    return max((label for label in labels if label and text.startswith(f"{label}.")), key=len, default=None)


def _labels(entry: Any) -> list[str]:
    if not isinstance(entry, dict):
        return []
    return [text for text in (entry.get("label"), entry.get("name")) if isinstance(text, str)]


def _parse_value(text: str) -> Any:
    text = text.strip()
    try:
        parsed = load_toml(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text  # a bare word is text
    except ValueError as error:
        raise RecipeError(f"--set: the value {shorten(text)!r} cannot be read: {error}") from error
    except RecursionError:
        raise RecipeError(f"--set: got a value nested too deeply, wanted at most {MAX_DEPTH} levels") from None
    return parsed["value"] if len(parsed) == 1 else text


def _find_entry(entries: list[Any], key: str, override: str) -> Any:
    """The entry with this number or label, or the only one with this name."""
    tables = [entry for entry in entries if isinstance(entry, dict)]
    if len(tables) < len(entries) or not entries:
        raise RecipeError(f"--set: got {shorten(override)!r}, but this list has no entries with keys; set it whole")
    found = [entry for i, entry in enumerate(entries) if key == str(i)]
    found = found or [entry for entry in entries if entry.get("label", entry.get("name")) == key]
    found = found or [entry for entry in entries if entry.get("name") == key]
    if len(found) == 1:
        return found[0]
    have = ", ".join(f"{i} ({entry.get('label', entry.get('name'))})" for i, entry in enumerate(entries))
    raise RecipeError(f"--set: got {shorten(override)!r}, wanted an entry by number or label: {have}")
