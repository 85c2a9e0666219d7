"""The taxonomy of attacks on learning: what an attack is, said where it is defined, and what a defence answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from taster.errors import SettingError

Influence = Literal["causative"]
Specificity = Literal["targeted", "indiscriminate"]
Violation = Literal["integrity", "availability"]
Knowledge = Literal["white box", "grey box", "black box"]
Universality = Literal["universal", "individual", "none"]
Family = Literal["label", "p-tampering", "feature space", "bilevel", "generative", "influence", "none"]
Timing = Literal["stream step", "accumulative then trigger", "round", "before training"]
Kind = Literal[
    "regularization",
    "sanitization",
    "test",
    "robust statistics",
    "ensemble",
    "randomization",
    "information hiding",
    "recovery",
]
Harm = Literal["targeted integrity", "targeted availability", "indiscriminate integrity", "indiscriminate availability"]

F = TypeVar("F", bound=Callable[..., Any])

_THREAT = "__taster_threat__"
_COUNTERMEASURE = "__taster_countermeasure__"


@dataclass(frozen=True)
class Threat:
    """What an attack is, with its default settings.

    Attributes:
        specificity: "targeted" at certain samples, inputs or one class, or "indiscriminate".
        violation: of "integrity", where chosen inputs get the answer that the attacker wants and the model stays good
            otherwise, or of "availability", where it errs so much that it is of no use.
        knowledge: "white box": of the present model and whatever else the attack needs (what other clients send, a copy
            of the guard); "grey box": of a part of it; "black box": of the task alone.
        universality: one pattern for all samples ("universal"), or another change for each ("individual"); "none" where
            no sample's content is changed.
        family: of the six that poisoning of data is divided into, or "none" of them.
        timing: when it acts.
        influence: on training ("causative"). What acts on a finished model alone ("exploratory") is no poison.
        note: one sentence, where this is a matter of opinion or of settings.

    Raises:
        SettingError: for a word that the taxonomy does not have.

    Source: Barreno et al. 2006, Section 3 (influence, specificity, violation).
    """

    specificity: Specificity
    violation: Violation
    knowledge: Knowledge
    universality: Universality
    family: Family
    timing: Timing
    influence: Influence = "causative"
    note: str = ""

    def __post_init__(self) -> None:
        _check_words(self)


@dataclass(frozen=True)
class Countermeasure:
    """What a defence is, with its default settings.

    Attributes:
        kind: how it defends.
        against: the harm that it is made to prevent, one or more cells of the table of Barreno et al.
        note: one sentence, where this is a matter of opinion or of settings.

    Raises:
        SettingError: for a word that the taxonomy does not have, or no harm at all.

    Source: after Barreno et al. 2006, Section 4.
    """

    kind: Kind
    against: tuple[Harm, ...]
    note: str = ""

    def __post_init__(self) -> None:
        if not self.against:
            raise SettingError(f"against: got nothing, wanted one or more of {', '.join(get_args(Harm))}")
        _check_words(self)


def threat(
    specificity: Specificity,
    violation: Violation,
    knowledge: Knowledge,
    universality: Universality,
    family: Family,
    timing: Timing,
    *,
    note: str = "",
) -> Callable[[F], F]:
    """Says what an attack is, above its function::

        @threat("indiscriminate", "availability", "black box", "none", "label", "before training")
        @validate_settings
        def label_flip(...) -> OnlineAttack: ...

    Args: see `Threat`.

    Raises:
        SettingError: for a word that the taxonomy does not have.
    """
    return _declare(_THREAT, Threat(specificity, violation, knowledge, universality, family, timing, note=note))


def threat_of(function: Callable[..., Any]) -> Threat | None:
    """What an attack says that it is; None if it says nothing."""
    found = getattr(function, _THREAT, None)
    return found if isinstance(found, Threat) else None


def countermeasure(kind: Kind, *against: Harm, note: str = "") -> Callable[[F], F]:
    """Says what a defence is, above its function, as `threat` does of an attack.

    Args: see `Countermeasure`.

    Raises:
        SettingError: for a word that the taxonomy does not have, or no harm at all.
    """
    return _declare(_COUNTERMEASURE, Countermeasure(kind, against, note))


def countermeasure_of(function: Callable[..., Any]) -> Countermeasure | None:
    """What a defence says that it is; None if it says nothing."""
    found = getattr(function, _COUNTERMEASURE, None)
    return found if isinstance(found, Countermeasure) else None


def _declare(name: str, value: object) -> Callable[[F], F]:
    def declared(function: F) -> F:
        setattr(function, name, value)
        return function

    return declared


def _check_words(said: Threat | Countermeasure) -> None:
    for name, hint in get_type_hints(type(said)).items():
        value = getattr(said, name)
        is_many = isinstance(value, tuple)
        allowed = get_args(get_args(hint)[0] if is_many else hint)
        for word in value if is_many else (value,):
            if allowed and word not in allowed:
                raise SettingError(f"{name}: got {word!r}, wanted one of {', '.join(allowed)}")
