"""taster: models that keep learning, guarded against poisoned batches, and the attacks to prove it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taster import probe
    from taster.core.batch import Batch
    from taster.core.checkpoint import load_state, save_state
    from taster.core.client_updates import ClientUpdates
    from taster.core.functional_model import in_view
    from taster.core.guard import CandidateUpdate, Gate, GradientTransform, Guard, Screen, ScreenedBatch
    from taster.core.guarded import Guarded
    from taster.core.guarded_step import GuardedStep
    from taster.core.learner import Learner
    from taster.core.quarantine import Quarantine
    from taster.core.snapshots import Snapshot, SnapshotBuffer
    from taster.core.step_record import Phase, StepRecord
    from taster.core.verdict import COMMIT, Action, Verdict, reject, rewind
    from taster.core.view import View
    from taster.defences.default_guard import guard
    from taster.defences.gates.metric_gate import metric_gate
    from taster.defences.gates.probe_gate import probe_gate
    from taster.integrations.estimators import guarded
    from taster.stats.detection_bound import DetectionBound, detection_bound

__version__ = "0.2.0"

__all__ = [
    "COMMIT",
    "Action",
    "Batch",
    "CandidateUpdate",
    "ClientUpdates",
    "DetectionBound",
    "Gate",
    "GradientTransform",
    "Guard",
    "Guarded",
    "GuardedStep",
    "Learner",
    "Phase",
    "Quarantine",
    "Screen",
    "ScreenedBatch",
    "Snapshot",
    "SnapshotBuffer",
    "StepRecord",
    "Verdict",
    "View",
    "__version__",
    "detection_bound",
    "guard",
    "guarded",
    "in_view",
    "load_state",
    "metric_gate",
    "probe",
    "probe_gate",
    "reject",
    "rewind",
    "save_state",
]

_MODULES = {
    **dict.fromkeys(("Batch",), "taster.core.batch"),
    **dict.fromkeys(("load_state", "save_state"), "taster.core.checkpoint"),
    **dict.fromkeys(("ClientUpdates",), "taster.core.client_updates"),
    **dict.fromkeys(("in_view",), "taster.core.functional_model"),
    **dict.fromkeys(
        ("CandidateUpdate", "Gate", "GradientTransform", "Guard", "Screen", "ScreenedBatch"), "taster.core.guard"
    ),
    **dict.fromkeys(("Guarded",), "taster.core.guarded"),
    **dict.fromkeys(("GuardedStep",), "taster.core.guarded_step"),
    **dict.fromkeys(("Learner",), "taster.core.learner"),
    **dict.fromkeys(("Quarantine",), "taster.core.quarantine"),
    **dict.fromkeys(("Snapshot", "SnapshotBuffer"), "taster.core.snapshots"),
    **dict.fromkeys(("Phase", "StepRecord"), "taster.core.step_record"),
    **dict.fromkeys(("COMMIT", "Action", "Verdict", "reject", "rewind"), "taster.core.verdict"),
    **dict.fromkeys(("View",), "taster.core.view"),
    **dict.fromkeys(("guard",), "taster.defences.default_guard"),
    **dict.fromkeys(("metric_gate",), "taster.defences.gates.metric_gate"),
    **dict.fromkeys(("probe_gate",), "taster.defences.gates.probe_gate"),
    **dict.fromkeys(("guarded",), "taster.integrations.estimators"),
    **dict.fromkeys(("DetectionBound", "detection_bound"), "taster.stats.detection_bound"),
}
"""Where each name is defined. Modules are imported when a name is first used, so that the command answers at once."""

_PACKAGES = ("probe",)
"""Packages that are used by their name: `taster.probe.draw`."""


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in _PACKAGES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
