"""Any value at any key of a recipe is a recipe or a RecipeError, never another error."""

from __future__ import annotations

import copy
import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import TINY_RECIPE

from taster.errors import TasterError
from taster.experiments.recipes.checks import parse_recipe
from taster.experiments.recipes.overrides import apply_override

RAW = tomllib.loads(TINY_RECIPE)


def keys_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in keys_of(item, (*path, key)))]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**40, 10**5000, -1, 0, float("nan"), float("inf"), -0.0, "", "\x00", "[/red]", "../outside"]),
    st.sampled_from(["nothing:here", "os:system", "a" * 10_000, "=", "a=b", "\ud800"]),
    st.text(max_size=20),
    st.recursive(st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5),
    st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=5), max_size=3),
    st.integers(50, 400).map(deep),
)


def test_any_value_at_any_key_is_a_recipe_or_a_recipe_error(thorough: bool) -> None:
    seen: list[str] = []

    @settings(max_examples=2000 if thorough else 40, deadline=None, database=None, derandomize=not thorough)
    @given(st.sampled_from(keys_of(RAW)[1:]), VALUES, st.text(max_size=6), st.booleans())
    def any_of_them(path: tuple[Any, ...], value: Any, name: str, adds: bool) -> None:
        raw = copy.deepcopy(RAW)
        place = raw
        for key in path[:-1]:
            place = place[key]
        if adds and isinstance(place, dict):
            place[name] = value
        else:
            place[path[-1]] = value
        try:
            parse_recipe(raw)
        except TasterError as error:
            seen.append(str(error))

    any_of_them()
    assert seen
    assert all(seen)


def test_any_override_is_taken_or_a_recipe_error(thorough: bool) -> None:
    keys = st.sampled_from([".".join(map(str, path)) for path in keys_of(RAW)[1:]]) | st.text(max_size=12)
    seen: list[str] = []
    texts = st.text(max_size=20) | st.sampled_from(["[" * 500, "9" * 5000, "\x00", "1e999", '"', "{a=1}", "true"])

    @settings(max_examples=2000 if thorough else 40, deadline=None, database=None, derandomize=not thorough)
    @given(keys, st.sampled_from(["=", "", ".a.b=", "=="]), texts)
    def any_of_them(key: str, sign: str, text: str) -> None:
        raw = copy.deepcopy(RAW)
        try:
            apply_override(raw, key + sign + text)
            parse_recipe(raw)
        except TasterError as error:
            seen.append(str(error))

    any_of_them()
    assert seen
    assert all(seen)
