"""Settings of attacks, defences and models: the keyword-only parameters of a function, validated by their annotations.

Settings that belong together are a `settings_group`: one object in Python, plain keys beside the others in a recipe.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, replace
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from taster.errors import SettingError

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")

_CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@typing.dataclass_transform(kw_only_default=True, frozen_default=True)
def settings_group(cls: type[C]) -> type[C]:
    """Makes a class a frozen, keyword-only dataclass of settings that several functions share.

    A function takes such settings by one keyword-only parameter, whose default is an instance (a default of a field may
    so differ between functions). In a recipe each field is a key of its own::

        @settings_group
        class PerturbationSettings:
            epsilon: Annotated[float, Field(ge=0)] = 8 / 255

        @validate_settings
        def attack(*, perturbation: PerturbationSettings = PerturbationSettings()) -> OnlineAttack: ...

        attack(perturbation=PerturbationSettings(epsilon=0.1))     # in Python
        epsilon = 0.1                                              # in a recipe
    """
    group = dataclass(frozen=True, kw_only=True)(cls)
    group.__is_settings_group__ = True  # type: ignore[attr-defined]
    return group


def settings_model(function: Callable[..., Any]) -> type[BaseModel]:
    """The pydantic model of a function's settings: a field for each keyword-only parameter, and for each field of a
    group. Unknown keys and wrong types are faults. Built once for each function.

    Raises:
        TypeError, ValueError, NameError: if the signature or its annotations cannot be read.
    """
    return _settings_of(function).model


def group_settings(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a function from validated settings as a recipe has them, by key.

    Raises:
        TypeError, ValueError, NameError: see `settings_model`.
    """
    return _settings_of(function).group(settings)


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
    """Validates the settings of every call, whoever makes it, as those of a recipe are validated.

    Raises (the decorated function):
        SettingError: with every fault.
    """
    name = function.__name__

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        known = _settings_of(function)
        settings = known.ungroup(keywords, name)
        try:
            known.model.model_validate(settings)
        except ValidationError as error:
            raise SettingError("; ".join(validation_messages(error, f"{name}: ", known.model))) from None
        return function(*args, **keywords)

    return call


@dataclass(frozen=True)
class _Group:
    """A keyword-only parameter that takes a group.

    Attributes:
        cls: the group's class.
        default: the parameter's default; None if the parameter is required.
        names: of the group's fields.
    """

    cls: type[Any]
    default: Any
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Settings:
    """A function's settings by key, and which of them are handed over as one object.

    Attributes:
        model: of all of them, by key.
        groups: by parameter.
    """

    model: type[BaseModel]
    groups: Mapping[str, _Group]

    def group(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings by key as keyword arguments."""
        keywords = dict(settings)
        for parameter, group in self.groups.items():
            given = {name: keywords.pop(name) for name in group.names if name in keywords}
            if group.default is None:
                keywords[parameter] = group.cls(**given)
            elif given:
                keywords[parameter] = replace(group.default, **given)
        return keywords

    def ungroup(self, keywords: Mapping[str, Any], function: str) -> dict[str, Any]:
        """Keyword arguments as settings by key; arguments that are no settings are left to Python.

        Raises:
            SettingError: for a group that is of another class, or a key of a group given as an argument.
        """
        settings: dict[str, Any] = {}
        for name, value in keywords.items():
            if name in self.groups:
                group = self.groups[name]
                if not isinstance(value, group.cls):
                    raise SettingError(f"{function}: {name}: got {value!r}, wanted a {group.cls.__name__}")
                settings |= {key: getattr(value, key) for key in group.names}
            elif name in self.model.model_fields:
                for parameter, group in self.groups.items():
                    if name in group.names:
                        raise SettingError(
                            f"{function}: {name}: got it as an argument, wanted it in "
                            f"{parameter}={group.cls.__name__}({name}=...)"
                        )
                settings[name] = value
        return settings


@functools.cache
def _read_settings(function: Callable[..., Any]) -> _Settings:
    hints = typing.get_type_hints(function, include_extras=True)
    keys: dict[str, Any] = {}
    groups: dict[str, _Group] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        hint = hints.get(parameter.name, Any)
        required = parameter.default is parameter.empty
        if isinstance(hint, type) and getattr(hint, "__is_settings_group__", False):
            default = None if required else parameter.default
            own = dict(_fields_of_group(hint, default))
            groups[parameter.name] = _Group(hint, default, tuple(own))
        else:
            own = {parameter.name: (hint, ... if required else parameter.default)}
        twice = own.keys() & keys.keys()
        if twice:
            raise TypeError(f"several settings are called {', '.join(sorted(twice))}")
        keys |= own
    model = create_model(getattr(function, "__name__", "settings"), __config__=_CONFIG, **keys)
    return _Settings(model, groups)


def _settings_of(function: Callable[..., Any]) -> _Settings:
    return _read_settings(inspect.unwrap(function))


def _fields_of_group(cls: type[Any], default: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """For each field: its name, its annotation and its default, `...` for none."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        yield field.name, (hints[field.name], _default_of(field) if default is None else getattr(default, field.name))


def _default_of(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return ... if field.default is MISSING else field.default


def _keys_of(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at a path."""
    for part in location:
        section = model.model_fields[str(part)].annotation
        choices = [section, *typing.get_args(section)]  # of an optional section it is one of them
        sections = [choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)
