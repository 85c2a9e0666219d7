"""Parsing of recipes: every fault is reported at once, every default filled in."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from taster.errors import RecipeError
from taster.experiments.recipes.cross_field import cross_field_errors
from taster.experiments.recipes.raw_values import check_values, take_format
from taster.experiments.recipes.registry import Kind, all_factories, find_factory
from taster.experiments.recipes.schema import Recipe
from taster.utils.settings import validation_messages

_SHOWN = 50
"""Faults that a message lists."""

_LISTS: tuple[Kind, ...] = ("attack", "defence", "score")


def parse_recipe(raw: dict[str, Any], where: str = "recipe") -> Recipe:
    """Checks a recipe and fills in every default.

    Args:
        raw: the recipe as parsed from TOML.
        where: what the error calls it.

    Raises:
        RecipeError: with every fault, one a line: the key's path, what was got and what was wanted.
    """
    raw = take_format(raw, where)
    faults = check_values(raw)
    recipe = None if faults else _parse(raw, faults)
    if faults or recipe is None:
        shown = [*faults[:_SHOWN], *([f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else [])]
        raise RecipeError(
            f"{where} has {len(faults)} fault{'s' if len(faults) > 1 else ''}:\n" + "\n".join(f"  {f}" for f in shown)
        )
    return recipe


def _parse(raw: dict[str, Any], faults: list[str]) -> Recipe | None:
    raw = _with_defaults(raw, faults)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        faults += validation_messages(error, "", Recipe)
    filled = _check_entries(raw, faults)
    if recipe is None or faults:
        return None
    whole = recipe.model_dump(exclude_none=True)  # with what a scenario has no use for, to be told of it
    if recipe.federated is not None and "federated" in filled:
        filled["federated"] = {**whole["federated"], "aggregator": filled["federated"]["aggregator"]}
    recipe = Recipe.model_validate({**whole, **filled})
    faults += cross_field_errors(recipe)
    return recipe


def _with_defaults(raw: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    """Merges `[defaults.attack]`, `[defaults.defence]` and `[defaults.score]` into the entries whose functions have
    those settings."""
    defaults = raw.get("defaults", {})
    raw = {key: value for key, value in raw.items() if key != "defaults"}
    if not isinstance(defaults, dict) or not all(isinstance(part, dict) for part in defaults.values()):
        faults.append(f"defaults: got {defaults!r}, wanted tables: [defaults.attack], [defaults.defence]")
        return raw
    for kind, settings in defaults.items():
        if kind not in _LISTS:
            faults.append(f"defaults.{kind}: got an unknown key, wanted one of {', '.join(_LISTS)}")
            continue
        # A part that recipes share may have settings that none of this one's entries takes; but not a misspelt one.
        unused = set(settings) - {key for factory in all_factories(kind) for key in factory.settings.model_fields}
        entries = []
        for entry in raw.get(kind, []) if isinstance(raw.get(kind, []), list) else []:
            known = _settings_of(kind, entry)
            unused -= known
            laid = {key: value for key, value in settings.items() if key in known}
            entries.append({**laid, **entry} if isinstance(entry, dict) else entry)
        if entries:
            raw[kind] = entries
        faults += [f"defaults.{kind}.{key}: got a setting that no {kind} has" for key in sorted(unused)]
    return raw


def _settings_of(kind: Kind, entry: Any) -> set[str]:
    """The settings that an entry's function has; empty if there is no such function, a fault that is reported later."""
    try:
        return set(find_factory(kind, entry["name"]).settings.model_fields)
    except (RecipeError, TypeError, KeyError):
        return set()


def _check_entries(raw: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    """Checks the settings of all entries and fills in their defaults."""
    filled: dict[str, Any] = {}
    model = _checked("model", raw.get("model"), "model", faults)
    if model is not None:
        filled["model"] = model
    federated = raw.get("federated")
    if isinstance(federated, dict) and "aggregator" in federated:
        rule = _checked("aggregator", federated["aggregator"], "federated.aggregator", faults)
        if rule is not None:
            filled["federated"] = {**federated, "aggregator": rule}
    for kind in _LISTS:
        entries = raw.get(kind)
        if isinstance(entries, list):
            done = [_checked(kind, entry, f"{kind}.{i}", faults) for i, entry in enumerate(entries)]
            filled[kind] = [
                {"label": raw_entry.get("label", raw_entry["name"]), **entry}
                for entry, raw_entry in zip(done, entries, strict=True)
                if entry is not None
            ]
    offline = raw.get("offline")
    if isinstance(offline, dict) and isinstance(offline.get("attacker_models"), list):
        models = enumerate(offline["attacker_models"])
        done = [_checked("model", entry, f"offline.attacker_models.{i}", faults) for i, entry in models]
        filled["offline"] = {**offline, "attacker_models": done}
    if isinstance(raw.get("surrogate"), list):
        filled["surrogate"] = [
            {**entry, "model": _checked("model", entry["model"], f"surrogate.{i}.model", faults)}
            if isinstance(entry, dict) and "model" in entry
            else entry
            for i, entry in enumerate(raw["surrogate"])
        ]
    return filled


def _checked(kind: Kind, entry: Any, path: str, faults: list[str]) -> dict[str, Any] | None:
    """An entry's name and its checked settings with defaults filled in; None if there is a fault."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return None  # already a fault of the section
    try:
        factory = find_factory(kind, entry["name"])
    except RecipeError as error:
        faults.append(f"{path}.name: {error}")
        return None
    own = ("name", "label", "plus") if kind == "defence" else ("name", "label")
    settings = {k: v for k, v in entry.items() if k not in own}
    plus = _plus(kind, entry, path, faults)
    try:
        checked = factory.settings.model_validate(settings).model_dump(exclude_none=True)
    except ValidationError as error:
        faults += validation_messages(error, f"{path}.", factory.settings)
        return None
    epsilon = checked.get("epsilon")
    if checked.get("norm") == "linf" and isinstance(epsilon, (int, float)) and epsilon > 1:
        faults.append(f"{path}.epsilon: got {epsilon}, wanted at most 1, the range of the data")
    return {"name": entry["name"], **plus, **checked}


def _plus(kind: Kind, entry: dict[str, Any], path: str, faults: list[str]) -> dict[str, Any]:
    """The defences named in `plus`, each of which must do without settings."""
    names = entry.get("plus", []) if kind == "defence" else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return {}  # already a fault of the section
    for i, name in enumerate(names):
        _checked(kind, {"name": name}, f"{path}.plus.{i}", faults)
    return {"plus": names} if names else {}
