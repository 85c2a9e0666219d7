"""taster: models that keep learning, guarded against poisoned batches, and the attacks to prove it."""

from taster.checkpoint import load_state, save_state
from taster.defences.recommended import guard
from taster.history import History, Snapshot
from taster.learner import Learner
from taster.promise import Promise, promise
from taster.quarantine import Quarantine
from taster.stages import Admitted, Change, Gate, Guard, Screen, Transform
from taster.types import COMMIT, Action, Batch, Phase, StepRecord, Updates, Verdict, reject, rewind
from taster.view import View

__version__ = "0.1.0"

__all__ = [
    "COMMIT",
    "Action",
    "Admitted",
    "Batch",
    "Change",
    "Gate",
    "Guard",
    "History",
    "Learner",
    "Phase",
    "Promise",
    "Quarantine",
    "Screen",
    "Snapshot",
    "StepRecord",
    "Transform",
    "Updates",
    "Verdict",
    "View",
    "__version__",
    "guard",
    "load_state",
    "promise",
    "reject",
    "rewind",
    "save_state",
]
