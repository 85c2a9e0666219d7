"""The recipe that an audit makes: a suite of attacks and defences for a model and data of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taster.experiments.audit.findings import Findings
from taster.experiments.audit.request import AuditRequest, Scene
from taster.experiments.audit.shares import batch_size, cut

_GRAY_EPSILON, _COLOR_EPSILON = 0.1, 8 / 255
_FLOOR, _MARGIN = 10.0, 5.0
"""Points under the measured accuracy at which the owner would stop the learning, and how long before an attacker
strikes."""


@dataclass(frozen=True)
class Size:
    """How large a run of the suite is.

    Attributes:
        seeds: number of them.
        steps: accumulative steps of a stream, or epochs of a training.
        pgd_steps: with which poison is crafted.
        epochs: of the burn-in; 0 with weights, and where nothing is burnt in.
    """

    seeds: int
    steps: int
    pgd_steps: int
    epochs: int


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

    def recipe(self, size: Size, *, accuracy: float | None = None, small: bool = False) -> dict[str, Any]:
        """The recipe as plain values.

        Args:
            size: of the run.
            accuracy: measured before any attack, in %, which sets the floor of the stream. None: no floor.
            small: whether to leave out all but a few attacks and defences, for a first look.
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
            return {**common, **self._offline(size, small)}
        return {**common, **self._online(size, accuracy, small)}

    def _description(self) -> str:
        weights = "trained on a part of the data" if self.request.weights is None else "with weights of its own"
        seen = (
            ""
            if self.request.weights is None or self.findings.test is not None
            else " The weights may have been trained on some of the samples that test them here."
        )
        return f"Made by taster audit: {self.request.model}, {weights}, on {self.findings.describe()}.{seen}"

    def _online(self, size: Size, accuracy: float | None, small: bool) -> dict[str, Any]:
        batch = batch_size(self.findings)
        burn_in: dict[str, Any] = {"batch_size": batch, "learning_rate": self.learning_rate}
        if self.request.weights is not None:
            burn_in |= {"epochs": 0, "checkpoint": self.request.weights}
        else:
            burn_in |= {"epochs": size.epochs}
        schedule: dict[str, Any] = {"steps": size.steps}
        if accuracy is not None:
            schedule |= {"accuracy_floor": round(max(accuracy - _FLOOR, 0.0), 1), "margin": _MARGIN}
        return {
            "burn_in": burn_in,
            "stream": {"batch_size": batch, "learning_rate": self.learning_rate},
            "schedule": schedule,
            "attack": self._stream_attacks(size, small),
            "defence": [{"name": "none"}, {"name": "guard"}]
            if small
            else [{"name": "none"}, {"name": "clipping"}, {"name": "accuracy_monitor"}, {"name": "guard"}],
        }

    def _stream_attacks(self, size: Size, small: bool) -> list[dict[str, Any]]:
        default = _GRAY_EPSILON if self.findings.shape[:1] == (1,) else round(_COLOR_EPSILON, 4)
        epsilon = self.request.epsilon or default
        crafted = {
            "epsilon": epsilon,
            "pgd_steps": size.pgd_steps,
            "validation_size": min(100, cut(self.findings, self.scene, trained=True)["validation"]),
        }
        attacks: list[dict[str, Any]] = [
            {"name": "none"},
            {"name": "label_flip", "label": "wrong labels"},
            {"name": "vanilla_trigger", "label": "poisoned batch", **crafted},
        ]
        if small:
            return attacks
        return [
            *attacks,
            {"name": "random_noise", "label": "noise (control)", "epsilon": epsilon},
            {"name": "accumulative", "label": "prepared", **crafted, "trigger_batch": "recrafted"},
            {"name": "guard_aware", "label": "knows guard", **crafted, "goal": "immediate"},
            {"name": "patch_backdoor", "label": self._backdoor_label(), **self._backdoor(0.2)},
        ]

    def _offline(self, size: Size, small: bool) -> dict[str, Any]:
        attacks: list[dict[str, Any]] = [
            {"name": "none"},
            {"name": "label_flip", "label": "wrong labels, 20 %", "poison_fraction": 0.2},
        ]
        if not small:
            attacks.append({"name": "label_flip", "label": "wrong labels, 40 %", "poison_fraction": 0.4})
            if len(self.findings.shape) == 3:
                attacks.append({"name": "patch_backdoor", "label": self._backdoor_label(), **self._backdoor(0.05)})
        defences: list[dict[str, Any]] = [{"name": "none"}, {"name": "trimmed_loss", "keep": 0.8}]
        if not small:
            defences.append({"name": "nearest_neighbour_sanitation"})
        return {
            "offline": {
                "epochs": size.steps,
                "batch_size": batch_size(self.findings),
                "learning_rate": self.learning_rate,
            },
            "attack": attacks,
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
        return f"backdoor to “{target[:60]}”"


def _slug(source: str) -> str:
    """A name for a folder from a path or a hub name."""
    stem = Path(source.rstrip("/")).stem or "data"
    kept = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)[:40].strip("-")
    return kept or "data"
