"""Settings of attacks, defences and models: the keyword-only parameters of a function, checked by their annotations."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from taster.errors import SettingError

P = ParamSpec("P")
R = TypeVar("R")


def settings_model(function: Callable[..., Any]) -> type[BaseModel]:
    """A model with a field for each keyword-only parameter; unknown keys and wrong types are faults.

    Raises:
        TypeError, ValueError, NameError: when the signature or its annotations cannot be read.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        parameter.name: (
            hints.get(parameter.name, Any),
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return create_model(getattr(function, "__name__", "settings"), __config__=config, **fields)


def validation_messages(error: ValidationError, prefix: str, model: type[BaseModel]) -> list[str]:
    """Pydantic's findings in our words: path, what was got, what was wanted."""
    lines = []
    for fault in error.errors():
        path = prefix + ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            keys = ", ".join(_keys_of(model, fault["loc"][:-1])) or "none: it has no settings"
            lines.append(f"{path}: got an unknown key, wanted one of {keys}")
        elif fault["type"] == "missing":
            lines.append(f"{path}: got nothing, wanted a value: the key is required")
        else:
            wanted = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            lines.append(f"{path}: got {fault['input']!r}, wanted {wanted}")
    return lines


def validate_settings(function: Callable[P, R]) -> Callable[P, R]:
    """Checks the settings of every call, whoever makes it, as a recipe's are.

    Raises (the wrapped function):
        SettingError: with every fault.
    """
    model: type[BaseModel] | None = None

    @functools.wraps(function)
    def call(*args: P.args, **settings: P.kwargs) -> R:
        nonlocal model
        model = settings_model(function) if model is None else model
        named = {name: value for name, value in settings.items() if name in model.model_fields}
        try:
            model.model_validate(named)
        except ValidationError as error:
            raise SettingError("; ".join(validation_messages(error, f"{function.__name__}: ", model))) from None
        return function(*args, **settings)

    return call


def _keys_of(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at a path."""
    for part in location:
        section = model.model_fields[str(part)].annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return []
        model = section
    return list(model.model_fields)
