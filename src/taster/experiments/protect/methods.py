"""Methods that can protect images: attacks on training sets that change images by little and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from taster.attacks import DATASET_ATTACKS, DatasetAttack
from taster.core.threat import threat_of
from taster.derivatives import Derivatives
from taster.errors import AttackError, TasterError
from taster.experiments.recipes.registry import Factory, find_factory
from taster.perturbations.pgd import LpBall
from taster.utils.settings import validation_messages

# What results/unlearnable.md and results/selfsup.md were measured with, step sizes as shares of ε: a tenth of the
# published work or less.
_QUICK: dict[str, dict[str, Any]] = {
    "error_minimising_noise": {"pgd_steps": 5, "step_size": 1 / 5, "max_rounds": 20},
    "robust_minimising_noise": {"pgd_steps": 3, "step_size": 1 / 5, "max_rounds": 6, "adversary_steps": 2},
    "error_maximising_noise": {"pgd_steps": 20, "step_size": 1 / 8},
    "universal_noise": {"pgd_steps": 5, "passes": 2},
    "gradient_alignment": {"pgd_steps": 12, "step_size": 1 / 5},
    "tensor_clog": {"pgd_steps": 12, "step_size": 1 / 5},
    "contrastive_poison": {"train_steps": 6, "pgd_steps": 3, "step_size": 1 / 8},
    "transferable_noise": {"train_steps": 6, "pgd_steps": 2, "step_size": 1 / 8, "csd_steps": 3},
}


@dataclass(frozen=True)
class Method:
    """A method with its settings.

    Attributes:
        name: of the attack.
        summary: its first sentence.
        source: where it is published.
        attack: made.
        ball: how far an image may move.
        settings: as they were given, or set for speed; the others have their defaults.
    """

    name: str
    summary: str
    source: str
    attack: DatasetAttack
    ball: LpBall
    settings: dict[str, Any]


def protecting_methods() -> list[str]:
    """Names of the registered attacks that can protect images."""
    return [name for name in DATASET_ATTACKS if _protects(name)]


def find_method(name: str, *, epsilon: float = 8 / 255, settings: Mapping[str, Any] | None = None) -> Method:
    """Makes a method.

    Args:
        name: of a registered attack.
        epsilon: radius of the ball, of 1.
        settings: of the attack, by the keys that a recipe has.

    Raises:
        AttackError: for an attack that does something else than changing images within a ball; for settings that it
            does not have; for a change of more than a pixel has room for.
    """
    if not _protects(name):
        raise AttackError(
            f"--method: got {name!r}, wanted an attack on training sets that keeps every label, inserts no image, "
            "bounds by a ball what becomes of an image, and is to keep a model from learning at all: "
            + ", ".join(protecting_methods())
        )
    factory = find_factory("attack", name)
    quick = _QUICK.get(name, {})
    quick = {key: value * epsilon if key == "step_size" else value for key, value in quick.items()}
    chosen = {**quick, "epsilon": epsilon, **(settings or {})}
    attack = _made(factory, chosen)
    ball = attack.budget.content
    assert isinstance(ball, LpBall)
    if ball.norm == "linf" and ball.epsilon > 1:
        raise AttackError(f"{name}.epsilon: got {ball.epsilon:g}, wanted at most 1, the whole range of a pixel")
    return Method(name, factory.summary, factory.source, attack, ball, chosen)


def _protects(name: str) -> bool:
    function = DATASET_ATTACKS.get(name)
    if function is None:
        return False
    threat, factory = threat_of(function), find_factory("attack", name)
    if (
        set(factory.needs) - _resources().keys()
        or threat is None
        or (threat.specificity, threat.violation) != ("indiscriminate", "availability")
    ):
        return False
    try:
        attack = factory.make(_resources(), {})
    except TasterError:  # it needs settings that tell what it is to do
        return False
    budget = attack.budget
    return isinstance(budget.content, LpBall) and not budget.insert and not budget.labels


def _resources() -> dict[str, Any]:
    """What an attack may need besides its settings, by the names of `taster.experiments.recipes.registry.KINDS`."""
    return {"derivatives": Derivatives()}


def _made(factory: Factory, chosen: Mapping[str, Any]) -> DatasetAttack:
    """Raises AttackError for settings that the attack does not have."""
    try:
        valid = factory.settings.model_validate(chosen)
    except ValidationError as error:
        raise AttackError("; ".join(validation_messages(error, f"{factory.name}.", factory.settings))) from error
    made = factory.make(_resources(), valid.model_dump(exclude_none=True))
    assert isinstance(made, DatasetAttack)
    return made
