"""Functions that a recipe can name, their settings typed by their own signatures."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel

from taster.attacks import ATTACKS, DATASET_ATTACKS, UPDATE_ATTACKS
from taster.defences import DATASET_DEFENCES, DEFENCES
from taster.errors import RecipeError
from taster.federated import AGGREGATORS
from taster.models import ESTIMATORS, MODELS
from taster.scores.registry import SCORES
from taster.utils.import_path import import_callable, is_import_path
from taster.utils.settings import group_settings, settings_model

Kind = Literal["attack", "defence", "model", "score", "aggregator"]

KINDS: dict[Kind, tuple[Mapping[str, Callable[..., Any]], tuple[str, ...]]] = {
    "attack": (
        {**ATTACKS, **UPDATE_ATTACKS, **DATASET_ATTACKS},
        (
            "trigger",
            "draw_validation",
            "generator",
            "derivatives",
            "surrogates",
            "simulator",
            "learning_rate",
            "defended",
        ),
    ),
    "defence": ({**DEFENCES, **AGGREGATORS, **DATASET_DEFENCES}, ("probe", "training_samples", "generator")),
    "aggregator": (AGGREGATORS, ("probe",)),
    "model": ({**MODELS, **ESTIMATORS}, ("shape", "classes", "vocabulary")),
    "score": (SCORES, ("probe",)),
}
"""For each kind: the functions that come with taster, and the positional arguments that the harness can give them."""


Setting = Literal["streams", "federations", "training sets"]
"""What an attack or a defence is for."""

_SETTINGS: dict[Kind, dict[Setting, Mapping[str, Callable[..., Any]]]] = {
    "attack": {"streams": ATTACKS, "federations": UPDATE_ATTACKS, "training sets": DATASET_ATTACKS},
    "defence": {"streams": DEFENCES, "federations": AGGREGATORS, "training sets": DATASET_DEFENCES},
}

_STREAMS_ALONE = {"temporal_aggregation_stream"}
"""Defences of streams that are no guards, which could stand around the steps of a training."""


@dataclass(frozen=True)
class Factory:
    """A function named in a recipe.

    Its positional parameters are given by the harness, by name (one with a default that the harness does not know is
    left out); its keyword-only parameters are its settings.
    """

    kind: Kind
    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...]
    unnamed: frozenset[str]
    settings: type[BaseModel]

    def make(self, resources: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
        """Calls the function with what it needs of the resources, and with its settings."""
        placed = [resources[need] for need in self.needs if need in self.unnamed]
        named = {need: resources[need] for need in self.needs if need not in self.unnamed}
        return self.function(*placed, **named, **group_settings(self.function, settings))

    @property
    def waits_for_a_step(self) -> bool:
        """Whether it acts on a certain step of a stream, so that it has no meaning before training."""
        return bool({"trigger", "simulator"} & set(self.needs))

    @property
    def serves(self) -> tuple[Setting, ...]:
        """Where an attack or a defence that comes with taster has its place; nothing for other kinds."""
        return tuple(setting for setting, known in _SETTINGS.get(self.kind, {}).items() if self._fits(setting, known))

    def _fits(self, setting: Setting, known: Mapping[str, Callable[..., Any]]) -> bool:
        if self.name in known:
            return True
        # What acts on every batch of a stream acts on a training set as if it came batch after batch; guards stand
        # around the steps of a training.
        of_streams = _SETTINGS[self.kind]["streams"]
        return (
            setting == "training sets"
            and self.name in of_streams
            and not self.waits_for_a_step
            and self.name not in _STREAMS_ALONE
        )

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return inspect.getdoc(self.function).split("\n\n")[0].replace("\n", " ") if self.function.__doc__ else ""  # type: ignore[union-attr]

    @property
    def source(self) -> str:
        """What its docstring names after "Source:"."""
        found = re.search(r"^Source: (.+?)(?:\n\n|\Z)", inspect.getdoc(self.function) or "", re.MULTILINE | re.DOTALL)
        return " ".join(found.group(1).split()) if found else ""


def find_factory(kind: Kind, name: str) -> Factory:
    """Looks up a function by its short name or its package.module:function.

    Raises:
        RecipeError: if there is none, or its signature asks for what the harness does not have.
    """
    known, available = KINDS[kind]
    if name in known:
        return _shipped(kind, name)
    if not is_import_path(name):
        raise RecipeError(f"got {name!r}, wanted one of {', '.join(known)}, or package.module:function")
    return _describe(kind, name, import_callable(name, RecipeError), available)


def all_factories(kind: Kind) -> list[Factory]:
    """The functions of a kind that come with taster."""
    return [_shipped(kind, name) for name in KINDS[kind][0]]


@cache
def _shipped(kind: Kind, name: str) -> Factory:
    known, available = KINDS[kind]
    return _describe(kind, name, known[name], available)


def _describe(kind: Kind, name: str, function: Callable[..., Any], available: Iterable[str]) -> Factory:
    try:
        settings = settings_model(function)
        parameters = inspect.signature(function).parameters.values()
    except Exception as error:  # annotations of a user's function can raise anything
        raise RecipeError(f"{name}: its signature cannot be read ({error})") from error
    needs = [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and (p.default is p.empty or p.name in available)
    ]
    for need in needs:
        if need not in available:
            raise RecipeError(
                f"{name}: got the positional parameter {need!r}, wanted some of {list(available)}; "
                "settings are keyword-only parameters, after a *"
            )
    unnamed = frozenset(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY)
    return Factory(kind, name, function, tuple(needs), unnamed, settings)
