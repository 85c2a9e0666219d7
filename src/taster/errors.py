"""What taster raises: one class for each kind of mistake, each message saying what was got and what was wanted."""

from __future__ import annotations


class TasterError(Exception):
    """Base of every error that taster raises on purpose. The command line turns it into one line and exit code 2."""


class BatchError(TasterError, ValueError):
    """A batch that no model could learn from: wrong shape, dtype, range, or too few samples."""


class SmallBatchError(BatchError):
    """Too few samples for the model to be trained on, as one is for batch norm."""


class LabelError(BatchError):
    """Labels outside the classes that the model (or the data set) knows."""


class ModelError(TasterError, ValueError):
    """A model, or weights for it, that does not fit the task."""


class LossError(TasterError, ValueError):
    """A loss that does not return one number that can be differentiated."""


class GuardError(TasterError, TypeError):
    """A stage that does not keep the protocol of its place in the guard."""


class SnapshotError(TasterError, LookupError):
    """A snapshot was asked for that the history does not hold."""


class StaleViewError(TasterError, RuntimeError):
    """A view was read after the learner it showed had moved on."""


class TransactionError(TasterError, RuntimeError):
    """A transaction was opened inside another: there is one copy to go back to, so there can be one at a time."""


class RankError(TasterError, RuntimeError):
    """Processes that train one model together and cannot go on together: another one failed, or does something else."""


class SettingError(TasterError, ValueError):
    """A setting of an attack, a defence or a model that its signature does not allow."""


class AttackError(TasterError, ValueError):
    """An attack that was set up with something it cannot work with."""


class DefenceError(TasterError, ValueError):
    """A defence of a training set returned something that is no weight of a sample or no model."""


class DataError(TasterError, ValueError):
    """A data set that is missing, unreadable, or not of the kind that was asked for."""


class RecipeError(TasterError, ValueError):
    """A recipe with faults; the message lists every one by the path of its key."""


class RunDirectoryError(TasterError, OSError):
    """A run directory that cannot be used, read or written."""


class CheckpointError(TasterError, ValueError):
    """A file of saved state that is missing, damaged, or holds something else."""


class QuarantineError(TasterError, ValueError):
    """A folder of refused batches that is damaged, or does not hold what was asked for."""


class WorkerError(TasterError, RuntimeError):
    """A worker process that ended without a result."""


class ExtraError(TasterError, ImportError):
    """Something was asked for that an extra of taster brings, which is not installed."""


class TrackingError(TasterError, RuntimeError):
    """A tracking library, or what it writes into, that cannot be used."""
