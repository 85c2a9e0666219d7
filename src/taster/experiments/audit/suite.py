"""The recipe that an audit makes: a suite of attacks and defences for a model and data of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from taster.experiments.audit.findings import Findings
from taster.experiments.audit.request import AuditRequest, Scene
from taster.experiments.audit.shares import batch_size, cut

_GRAY_EPSILON, _COLOR_EPSILON = 0.1, 8 / 255
_DEFENCES = ("none", "clipping", "accuracy_monitor", "guard")
_FEW_DEFENCES = ("none", "guard")
_FLOOR, _MARGIN = 10.0, 5.0
"""Points under the measured accuracy at which the owner would stop the learning, and how long before an attacker
strikes."""
STRIKES_AFTER = _FLOOR - _MARGIN
"""Points of the monitored accuracy after whose loss an attacker strikes and a stream ends."""

PGD_STEPS = 5
"""With which poison is crafted."""

Extent = Literal["large", "medium", "small"]
"""How much of the suite of streams is run: all; all attacks with no defence and behind the guard; or only the attacks
that cost little beside a step of training, likewise."""
EXTENTS: tuple[Extent, ...] = get_args(Extent)
COSTLY = ("accumulative", "guard_aware")
"""Attacks that take many times as long as a step of training."""

FEWEST_STEPS = 20
"""Of a stream: with fewer an attack that works in small steps has done nothing yet, and a guard has learned nothing."""
_EVALUATIONS = 10


def evaluate_every(steps: int) -> int:
    """Steps of a stream between measurements on the test samples, which can cost more than the steps: ten along it, but
    none along one that is too short for a result."""
    return steps if steps < FEWEST_STEPS else steps // _EVALUATIONS


@dataclass(frozen=True)
class Size:
    """How large a run of the suite is.

    Attributes:
        seeds: number of them.
        steps: accumulative steps of a stream, or epochs of a training.
        epochs: of the burn-in; 0 with weights, and where nothing is burnt in.
        extent: of a suite of streams.
    """

    seeds: int
    steps: int
    epochs: int
    extent: Extent = "large"


@dataclass(frozen=True)
class Suite:
    """Makes recipes of one audit that differ in size alone.

    Attributes:
        request: what was asked for.
        findings: of the data.
        scene: online or offline.
        learning_rate: of all training.
    """

    request: AuditRequest
    findings: Findings
    scene: Scene
    learning_rate: float

    def recipe(self, size: Size, *, accuracy: float | None = None, only: Sequence[str] | None = None) -> dict[str, Any]:
        """The recipe as plain values.

        Args:
            size: of the run.
            accuracy: measured before any attack, in %, which sets the floor of the stream. None: no floor.
            only: attacks by the names of their functions, that all but are left out, with no defence and behind the
                guard alone, and in a suite of trainings all but the fewest defences. None: those of the size's extent.
        """
        name = f"audit-{_slug(self.request.data)}"
        common: dict[str, Any] = {
            "name": name,
            "description": self._description(),
            "seeds": list(range(size.seeds)),
            "data": self.findings.section,
            "split": cut(self.findings, self.scene, trained=self.request.weights is not None),
            "model": {"name": self.request.model},
            "compute": {"threads": 1},
        }
        if self.scene == "offline":
            return {**common, **self._offline(size, only)}
        return {**common, **self._online(size, accuracy, only)}

    def functions(self, extent: Extent) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The attacks and the defences of a suite of streams, by the names of their functions."""
        every = tuple(str(entry["name"]) for entry in self._stream_attacks())
        attacks = tuple(name for name in every if name not in COSTLY) if extent == "small" else every
        return attacks, _DEFENCES if extent == "large" else _FEW_DEFENCES

    def _description(self) -> str:
        weights = "trained on a part of the data" if self.request.weights is None else "with weights of its own"
        seen = (
            ""
            if self.request.weights is None or self.findings.test is not None
            else " The weights may have been trained on some of the samples that test them here."
        )
        return (
            f"Made by taster audit: {self.request.model}, {weights}, on {self.findings.describe()}.{seen} "
            f"Planned for --budget {self.request.budget:g}: a longer one runs more steps, seeds, attacks and defences."
        )

    def _online(self, size: Size, accuracy: float | None, only: Sequence[str] | None) -> dict[str, Any]:
        batch = batch_size(self.findings)
        burn_in: dict[str, Any] = {"batch_size": batch, "learning_rate": self.learning_rate}
        if self.request.weights is not None:
            burn_in |= {"epochs": 0, "checkpoint": self.request.weights}
        else:
            burn_in |= {"epochs": size.epochs}
        schedule: dict[str, Any] = {"steps": size.steps}
        if accuracy is not None:
            schedule |= {"accuracy_floor": round(max(accuracy - _FLOOR, 0.0), 1), "margin": _MARGIN}
        attacks, defences = self.functions(size.extent)
        if only is not None:
            attacks, defences = tuple(only), _FEW_DEFENCES
        return {
            "burn_in": burn_in,
            "stream": {"batch_size": batch, "learning_rate": self.learning_rate},
            "schedule": schedule,
            "compute": {"threads": 1, "eval_every": evaluate_every(size.steps)},
            "attack": [entry for entry in self._stream_attacks() if entry["name"] in attacks],
            "defence": [{"name": name} for name in defences],
        }

    def _stream_attacks(self) -> list[dict[str, Any]]:
        default = _GRAY_EPSILON if self.findings.shape[:1] == (1,) else round(_COLOR_EPSILON, 4)
        epsilon = self.request.epsilon or default
        crafted = {
            "epsilon": epsilon,
            "pgd_steps": PGD_STEPS,
            "validation_size": min(100, cut(self.findings, self.scene, trained=True)["validation"]),
        }
        return [
            {"name": "none"},
            {"name": "label_flip", "label": "wrong labels"},
            {"name": "random_noise", "label": "noise (control)", "epsilon": epsilon},
            {"name": "vanilla_trigger", "label": "poisoned batches", **crafted, "greedy": True},
            {"name": "accumulative", "label": "prepared", **crafted, "trigger_batch": "recrafted"},
            {"name": "guard_aware", "label": "knows guard", **crafted, "goal": "immediate"},
            {"name": "patch_backdoor", "label": self._backdoor_label(), **self._backdoor(0.2)},
        ]

    def _offline(self, size: Size, only: Sequence[str] | None) -> dict[str, Any]:
        attacks: list[dict[str, Any]] = [
            {"name": "none"},
            {"name": "label_flip", "label": "wrong labels, 20 %", "poison_fraction": 0.2},
        ]
        defences: list[dict[str, Any]] = [{"name": "none"}, {"name": "trimmed_loss", "keep": 0.8}]
        if only is None:
            attacks.append({"name": "label_flip", "label": "wrong labels, 40 %", "poison_fraction": 0.4})
            if len(self.findings.shape) == 3:
                attacks.append({"name": "patch_backdoor", "label": self._backdoor_label(), **self._backdoor(0.05)})
            defences.append({"name": "nearest_neighbour_sanitation"})
        return {
            "offline": {
                "epochs": size.steps,
                "batch_size": batch_size(self.findings),
                "learning_rate": self.learning_rate,
            },
            "attack": [entry for entry in attacks if only is None or entry["name"] in only],
            "defence": defences,
        }

    def _backdoor(self, fraction: float) -> dict[str, Any]:
        side = min(self.findings.shape[1:])
        return {
            "size": max(1, min(3, side // 4)),
            "poison_fraction": fraction,
            "target_class": self.findings.target,
        }

    def _backdoor_label(self) -> str:
        names = self.findings.names
        target = names[self.findings.target] if names else str(self.findings.target)
        return f"backdoor to {target[:60]}"


def _slug(source: str) -> str:
    """A name for a folder from a path or a hub name."""
    stem = Path(source.rstrip("/")).stem or "data"
    kept = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)[:40].strip("-")
    return kept or "data"
