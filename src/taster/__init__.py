"""taster: models that keep learning, guarded against poisoned batches, and the attacks to prove it."""

from taster.core.checkpoint import load_state, save_state
from taster.core.guard import ScreenedBatch, CandidateUpdate, Gate, Guard, Screen, GradientTransform
from taster.core.learner import Learner
from taster.core.quarantine import Quarantine
from taster.core.snapshots import SnapshotBuffer, Snapshot
from taster.core.types import COMMIT, Action, Batch, Phase, StepRecord, Updates, Verdict, reject, rewind
from taster.core.view import View
from taster.defences.default_guard import guard
from taster.stats.detection_bound import DetectionBound, detection_bound

__version__ = "0.1.0"

__all__ = [
    "COMMIT",
    "Action",
    "ScreenedBatch",
    "Batch",
    "CandidateUpdate",
    "Gate",
    "Guard",
    "SnapshotBuffer",
    "Learner",
    "Phase",
    "DetectionBound",
    "Quarantine",
    "Screen",
    "Snapshot",
    "StepRecord",
    "GradientTransform",
    "Updates",
    "Verdict",
    "View",
    "__version__",
    "guard",
    "load_state",
    "detection_bound",
    "reject",
    "rewind",
    "save_state",
]
