"""Any number at any setting of an online or a federated recipe: told before the run, or the run can begin."""

from __future__ import annotations

import contextlib
import copy
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import TINY_RECIPE

from taster.errors import RecipeError, TasterError
from taster.experiments import Recipe, parse_recipe
from taster.experiments.running.dry_run import dry_run
from taster.experiments.running.progress import NoProgress

EXTRA = """
[history]
capacity = 3
[[score]]
name = "loss"
[[surrogate]]
label = "own"
model = {name = "mlp", hidden = [8]}
"""
FEDERATED = """
[federated]
clients = 12
clients_per_round = 8
samples = 3
aggregator = {name = "coordinate_median"}
"""
ONLINE = tomllib.loads(TINY_RECIPE + EXTRA)
CLIENTS = {
    **{key: value for key, value in ONLINE.items() if key != "score"},
    **tomllib.loads(FEDERATED),
    "attack": [{"name": "sign_flip", "scale": 5.0}, {"name": "accumulative_updates", "validation_size": 40}],
}
WHOLE = {"online": parse_recipe(ONLINE).to_dict(), "federated": parse_recipe(CLIENTS).to_dict()}
SECTIONS = ("attack", "defence", "score", "federated", "history", "schedule", "stream")
NUMBERS = st.integers(-2, 300) | st.floats() | st.sampled_from([2**62, 2**63 - 1, 1e300, 5e-324])


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every key and entry, defaults included."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for key, inner in items for found in [(*path, key), *paths(inner, (*path, key))]]


def with_value(kind: str, path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    raw: dict[str, Any] = copy.deepcopy(WHOLE[kind])
    node: Any = raw
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return raw


def recipes_with(sections: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """Both recipes with a number somewhere in these sections."""
    places = [(kind, path) for kind, whole in WHOLE.items() for path in paths(whole) if path[0] in sections]
    return st.builds(lambda place, value: with_value(*place, value), st.sampled_from(places), NUMBERS)


def parsed(raw: dict[str, Any]) -> Recipe | None:
    with contextlib.suppress(RecipeError):
        return parse_recipe(raw)
    return None


@given(recipes_with(SECTIONS))
def test_any_number_at_any_setting_is_tried_or_told_before_the_run(raw: dict[str, Any]) -> None:
    recipe = parsed(raw)
    if recipe is not None:
        with contextlib.suppress(TasterError):
            dry_run(recipe.with_compute(device="cpu"), NoProgress())


@given(recipes_with(tuple(WHOLE["online"])))
def test_a_recipe_that_is_accepted_comes_back_from_its_toml(raw: dict[str, Any]) -> None:
    recipe = parsed(raw)
    if recipe is not None:
        assert parse_recipe(tomllib.loads(recipe.to_toml())) == recipe


@pytest.mark.parametrize("kind", sorted(WHOLE))
def test_the_recipes_that_are_fuzzed_are_sound(kind: str) -> None:
    assert dry_run(parse_recipe(WHOLE[kind]), NoProgress()).seed == 0
