"""Tasks: how well a model does on each trusted sample. One file a kind; to add one, write it and name it in TASKS."""

from taster.tasks.base import Task, labels_of
from taster.tasks.classification import Binary, Classification, MultiLabel
from taster.tasks.dense import Segmentation, Tokens
from taster.tasks.detect import TASKS, named_task, seen_task
from taster.tasks.ranking import Ranking
from taster.tasks.regression import Regression

__all__ = [
    "TASKS",
    "Binary",
    "Classification",
    "MultiLabel",
    "Ranking",
    "Regression",
    "Segmentation",
    "Task",
    "Tokens",
    "labels_of",
    "named_task",
    "seen_task",
]
