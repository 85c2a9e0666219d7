"""A recipe checked: every fault told at once, every default filled in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from taster.attacks import UPDATE_ATTACKS
from taster.errors import RecipeError
from taster.experiments.recipes.registry import Kind, all_factories, find_factory
from taster.experiments.recipes.schema import Entry, Recipe
from taster.federated import AGGREGATORS
from taster.utils.settings import validation_messages as fault_lines

_LISTS: tuple[Kind, ...] = ("attack", "defence", "score")


def parse_recipe(raw: dict[str, Any], where: str = "recipe") -> Recipe:
    """Checks a recipe and fills in every default.

    Raises:
        RecipeError: with every fault, one a line: the key's path, what was got and what was wanted.
    """
    faults: list[str] = []
    raw = _with_defaults(raw, faults)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        faults += fault_lines(error, "", Recipe)
    filled = _check_entries(raw, faults)
    if recipe is not None and not faults:
        if recipe.federated is not None and "federated" in filled:
            filled["federated"] = {**recipe.to_dict()["federated"], "aggregator": filled["federated"]["aggregator"]}
        recipe = Recipe.model_validate({**recipe.to_dict(), **filled})
        faults += _impossible(recipe)
    if faults or recipe is None:
        raise RecipeError(
            f"{where} has {len(faults)} fault{'s' if len(faults) > 1 else ''}:\n" + "\n".join(f"  {f}" for f in faults)
        )
    return recipe


def _with_defaults(raw: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    """The recipe with `[defaults.attack]`, `[defaults.defence]` and `[defaults.score]` laid under each entry that has
    such settings, and gone themselves."""
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
    """The settings that an entry's function has; none where it cannot be found, which is told elsewhere."""
    try:
        return set(find_factory(kind, entry["name"]).settings.model_fields)
    except (RecipeError, TypeError, KeyError):
        return set()


def _check_entries(raw: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    """The entries with their functions' settings checked and defaults filled in."""
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
    if isinstance(raw.get("surrogate"), list):
        filled["surrogate"] = [
            {**entry, "model": _checked("model", entry["model"], f"surrogate.{i}.model", faults)}
            if isinstance(entry, dict) and "model" in entry
            else entry
            for i, entry in enumerate(raw["surrogate"])
        ]
    return filled


def _checked(kind: Kind, entry: Any, path: str, faults: list[str]) -> dict[str, Any] | None:
    """An entry's name and settings, these checked and filled in; None where there is a fault."""
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
        faults += fault_lines(error, f"{path}.", factory.settings)
        return None
    if checked.get("norm") == "linf" and checked.get("epsilon", 0) > 1:
        faults.append(f"{path}.epsilon: got {checked['epsilon']}, wanted at most 1, the range of the data")
    return {"name": entry["name"], **plus, **checked}


def _plus(kind: Kind, entry: dict[str, Any], path: str, faults: list[str]) -> dict[str, Any]:
    """The defences that an entry's is joined with, each checked to go without settings."""
    names = entry.get("plus", []) if kind == "defence" else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return {}  # already a fault of the section
    for i, name in enumerate(names):
        _checked(kind, {"name": name}, f"{path}.plus.{i}", faults)
    return {"plus": names} if names else {}


def _impossible(recipe: Recipe) -> list[str]:
    """Faults of several keys together."""
    faults: list[str] = []
    split, stream = recipe.split, recipe.stream
    if split.stream is not None and stream.batch_size > split.stream:
        faults.append(f"stream.batch_size: got {stream.batch_size}, wanted at most split.stream = {split.stream}")
    if recipe.burn_in.epochs and recipe.burn_in.batch_size > split.burn_in:
        faults.append(
            f"burn_in.batch_size: got {recipe.burn_in.batch_size}, wanted at most split.burn_in = {split.burn_in}"
        )
    if recipe.burn_in.epochs and recipe.burn_in.checkpoint is not None:
        faults.append("burn_in.epochs: got epochs to train and a checkpoint, wanted epochs = 0 with burn_in.checkpoint")
    if not recipe.burn_in.epochs and recipe.burn_in.checkpoint is None:
        faults.append("burn_in.epochs: got 0 and no burn_in.checkpoint, wanted epochs to train, or trained weights")
    late = [epoch for epoch in recipe.burn_in.keep_epochs if epoch > recipe.burn_in.epochs]
    if late:
        faults.append(f"burn_in.keep_epochs: got {late}, wanted at most burn_in.epochs = {recipe.burn_in.epochs}")
    if recipe.burn_in.earlier and recipe.burn_in.checkpoint is None:
        faults.append("burn_in.earlier: got files without burn_in.checkpoint, wanted both (or burn_in.keep_epochs)")
    faults += _no_such_past(recipe)
    faults += _impossible_federation(recipe)
    if recipe.schedule.margin and recipe.schedule.accuracy_floor is None:
        faults.append("schedule.margin: got a margin without schedule.accuracy_floor, wanted both")
    for i, attack in enumerate(recipe.attack):
        for key in ("validation_size", "group_size", "pretraining_size"):
            size = attack.settings.get(key)
            if isinstance(size, int) and size > split.validation:
                faults.append(f"attack.{i}.{key}: got {size}, wanted at most split.validation = {split.validation}")
    labelled: dict[str, Sequence[Entry]] = {
        "attack": recipe.attack,
        "defence": recipe.defence,
        "score": recipe.score,
    }
    own = {kind: [entry.label for entry in entries] for kind, entries in labelled.items()}
    own["surrogate"] = [surrogate.label for surrogate in recipe.surrogate]
    for kind, labels in own.items():
        for label, times in Counter(labels).items():
            if times > 1:
                faults.append(f"{kind}: got the label {label!r} {times} times, wanted a `label` of its own for each")
    for i, line in enumerate(recipe.published):
        for kind in labelled:
            got = getattr(line, kind)
            if got is not None and got not in own[kind]:
                faults.append(f"published.{i}.{kind}: got {got!r}, wanted a label: {', '.join(own[kind]) or 'none'}")
    if recipe.surrogate and recipe.burn_in.checkpoint is not None:
        faults.append("surrogate: got one with burn_in.checkpoint, wanted burn_in.epochs, which it is trained for too")
    told = Counter((line.attack, line.defence, line.score) for line in recipe.published)
    faults += [
        f"published: got {' and '.join(filter(None, key))} {times} times, wanted each once"
        for key, times in told.items()
        if times > 1
    ]
    for i, attack in enumerate(recipe.attack):
        if attack.settings.get("surrogate") in own["surrogate"] and attack.settings.get("evade_reference") is not None:
            faults.append(
                f"attack.{i}.evade_reference: got {attack.settings['evade_reference']!r} with a surrogate that is no earlier model of the "
                "learner's and has no past; wanted one of the two"
            )
    both = [label for label in own["surrogate"] if label in recipe.burn_in.labels]
    if both:
        faults.append(f"surrogate: got {both}, which are labels of the burn-in's snapshots; wanted others")
    repeated = [seed for seed, times in Counter(recipe.seeds).items() if times > 1]
    if repeated:
        faults.append(f"seeds: got {repeated} more than once, wanted each once")
    return faults


def _impossible_federation(recipe: Recipe) -> list[str]:
    """Faults of a recipe whose learning is federated, and of what is only for such in one whose is not."""
    faults = []
    section = recipe.federated
    for kind, entries, own in (("attack", recipe.attack, UPDATE_ATTACKS), ("defence", recipe.defence, AGGREGATORS)):
        for i, entry in enumerate(entries):
            if section is None and entry.name in own:
                faults.append(
                    f"{kind}.{i}.name: got {entry.name!r}, which is for federated learning, without [federated]"
                )
    if section is None:
        return faults
    if section.clients_per_round > section.clients:
        faults.append(
            f"federated.clients_per_round: got {section.clients_per_round}, wanted at most clients = {section.clients}"
        )
    if recipe.split.trigger < section.clients_per_round:
        faults.append(
            f"split.trigger: got {recipe.split.trigger}, wanted at least federated.clients_per_round = {section.clients_per_round}: a "
            "sample for each client of the trigger's round"
        )
    if recipe.split.stream is not None and recipe.split.stream < section.clients:
        faults.append(f"split.stream: got {recipe.split.stream}, wanted at least federated.clients = {section.clients}")
    if section.local_epochs and section.batch_norm == "synchronized":
        faults.append(
            "federated.batch_norm: got 'synchronized' with local_epochs, where clients' models differ; wanted "
            "'recorded'"
        )
    if recipe.score:
        faults.append("score: got scores of samples with [federated], where the server sees none; wanted none")
    for i, attack in enumerate(recipe.attack):
        if "simulator" in recipe.factory("attack", attack).needs:
            faults.append(
                f"attack.{i}.name: got {attack.name!r}, which tries batches on a copy of the guard, with [federated]"
            )
    return faults


_LOOK_BACK = ("reference_model", "compared_model", "evade_reference", "surrogate")
"""Settings that name an earlier model: by the label of a snapshot, or by steps back."""


def _no_such_past(recipe: Recipe) -> list[str]:
    """Faults of settings that look back to where no snapshot is kept."""
    faults = []
    own = [surrogate.label for surrogate in recipe.surrogate]
    grid: dict[Kind, Sequence[Entry]] = {"attack": recipe.attack, "defence": recipe.defence, "score": recipe.score}
    for kind, entries in grid.items():
        for i, entry in enumerate(entries):
            known = recipe.factory(kind, entry).settings.model_fields
            for key in _LOOK_BACK:
                back = entry.settings.get(key) if key in known else None
                labels = recipe.burn_in.labels + (own if key == "surrogate" else [])
                if isinstance(back, str) and back not in labels:
                    where = "burn_in.keep_epochs or burn_in.earlier"
                    where += ", or of a [[surrogate]]" if key == "surrogate" else ""
                    faults.append(
                        f"{kind}.{i}.{key}: got {back!r}, wanted a label of {where} "
                        f"({', '.join(labels) or 'none are kept'})"
                    )
                elif isinstance(back, int) and not recipe.history.capacity:
                    faults.append(f"{kind}.{i}.{key}: got {back} steps back, wanted history.capacity above 0 with it")
    return faults
