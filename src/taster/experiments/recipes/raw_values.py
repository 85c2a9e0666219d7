"""Values as a TOML file or the command line gives them, checked before anything else looks at them."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from taster.core.format_version import KEY, Format
from taster.errors import RecipeError

RECIPE = Format("a recipe", 1, RecipeError)

MAX_DEPTH = 20
"""Tables and lists inside one another. No recipe needs more than six."""

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_PART}[ \t]*\.[ \t]*){{{MAX_DEPTH}}}")
_MAX_INT = 2**63 - 1
_SHOWN = 60


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parses a TOML document.

    Raises:
        RecipeError: if it is not TOML, holds a number of more digits than Python converts, or is nested too deeply.
    """
    try:
        return load_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not TOML: {error}") from error
    except ValueError as error:
        raise RecipeError(f"{where}: a value cannot be read: {error}") from error
    except RecursionError:
        raise RecipeError(f"{where}: nested too deeply, wanted at most {MAX_DEPTH} levels") from None


def take_format(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """The recipe without its format version, which is checked. One that says none is of the first.

    Raises:
        RecipeError: if it is of another format.
    """
    RECIPE.check(raw.get(KEY), where)
    return {key: value for key, value in raw.items() if key != KEY}


def load_toml(text: str) -> dict[str, Any]:
    """Parses TOML with `tomllib`, which takes time quadratic in the parts of a dotted key, so long keys are refused.

    Raises:
        RecursionError: if it is nested too deeply, by brackets or by dots.
        ValueError: if it is not TOML (`tomllib.TOMLDecodeError`), or a number has too many digits.
    """
    if _LONG_KEY.search(text):
        raise RecursionError
    return tomllib.loads(text)


def check_values(raw: dict[str, Any]) -> list[str]:
    """Faults that would make a value unusable whatever key it stands at: integers beyond 64 bits, text with NUL or that
    is not Unicode, and nesting deeper than `MAX_DEPTH`. One line per fault, with the path of its key."""
    faults: list[str] = []
    pending: list[tuple[str, Any, int]] = [("", raw, 0)]
    while pending:  # a loop, as recursion would fail on the nesting that it looks for
        path, value, depth = pending.pop()
        if depth > MAX_DEPTH:
            faults.append(f"{shorten(path)}: nested too deeply, wanted at most {MAX_DEPTH} levels")
        elif isinstance(value, dict):
            faults += [
                f"{path or 'recipe'}: got the key {key!r:.60} {reason}" for key in value if (reason := _odd(key))
            ]
            pending += [(f"{path}.{key}" if path else str(key), inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, list):
            pending += [(f"{path}.{i}", inner, depth + 1) for i, inner in enumerate(value)]
        elif isinstance(value, str) and (reason := _odd(value)):
            faults.append(f"{path}: got text {reason}")
        elif isinstance(value, int) and abs(value) > _MAX_INT:
            faults.append(f"{path}: got an integer of {value.bit_length()} bits, wanted at most 63")
    return sorted(faults)


def shorten(text: str) -> str:
    """The text, cut in its middle if it is too long for a message."""
    return text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]} ... {text[-_SHOWN:]}"


def _odd(text: object) -> str:
    if not isinstance(text, str):
        return "that is no text, wanted text"
    if "\0" in text:
        return "with a NUL in it, wanted text without"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "that is not Unicode, wanted UTF-8"
    return ""
