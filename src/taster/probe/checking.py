"""A probe looked at before a guard relies on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.losses import AnyLoss
from taster.core.nested import is_label, tensors_in
from taster.core.objective import ForwardFn
from taster.core.trusted_data import as_trusted_data, nonfinite_rows, trusted_outputs
from taster.core.view import View
from taster.defences.gates.probe_source import ProbeSource
from taster.errors import BatchError, GuardError, LabelError
from taster.probe.digests import digests, first_of, joined_parts, training_digests
from taster.probe.drawing import classes_of
from taster.probe.model_views import view_of
from taster.probe.report import ProbeReport
from taster.probe.sizing import guard_bound
from taster.stats.confident_learning import Suspect, suspected_labels
from taster.tasks import Classification, Task, labels_of, named_task

_NAME = "taster.probe.check"


def check(
    probe: Any,
    model: Any = None,
    *,
    train: Any = None,
    task: str | Task | None = None,
    loss: AnyLoss | None = None,
    forward: ForwardFn | None = None,
    tolerance: float = 1.0,
    min_per_class: int = 20,
    input_range: tuple[float, float] | None = None,
) -> ProbeReport:
    """Looks for what would make a probe a bad judge: the same samples twice, or in the training data; classes that are
    missing or rare; labels that look wrong; NaN; another range of values; too few samples. Nothing is changed.

        print(taster.probe.check(probe, model, train=rest))

    Labels look wrong by what the model predicts (`taster.stats.confident_learning`), so that those it does not know
    better are among them: look at each before you mend it, and never drop all that a model gets wrong, since it is
    these that show harm.

    Args:
        probe: a `Batch`, a data set or a data loader.
        model: the present model, as a module or the learner around it; None leaves out what needs one.
        train: data that the model is trained on: a `Batch`, a data set or a data loader, which is read whole.
        task: as in `taster.guard`.
        loss, forward: as in `taster.Learner`, where the model is a module.
        tolerance: that the guard will have, in points.
        min_per_class: samples under which a class is rare. Of 20 all have to be lost for a p-value of 1e-6.
        input_range: the least and greatest value that samples may hold; None takes the learner's own.

    Raises:
        BatchError, ModelError, LabelError: where samples, labels and model do not belong together.
        GuardError: for a `min_per_class` under 1.
    """
    if min_per_class < 1:
        raise GuardError(f"{_NAME}: got min_per_class {min_per_class}, wanted 1 or more")
    whole = _readable(probe)
    bad = _nonfinite(whole)
    if len(bad) > len(whole) - 2:
        return ProbeReport(len(whole), nonfinite=bad, tolerance=tolerance)
    place = [i for i in range(len(whole)) if i not in set(bad)]
    samples = whole.select(torch.tensor(place)) if bad else whole
    view = None if model is None else view_of(model, _NAME, loss=loss, forward=forward)
    limits = input_range if input_range is not None or view is None else view.input_range
    if limits is None and train is not None:
        limits = _wider(_value_range(first_of(train, _NAME)))
    judged = None if view is None else _judged(samples, view, named_task(task, _NAME))
    known = digests(samples)
    groups = _same(known)
    labels = labels_of(samples, _NAME) if _has_labels(samples) else None
    codes = _class_labels(labels) if judged is None else judged.classes
    counts = {} if codes is None else _counts(codes)
    trained_on = set() if train is None else training_digests(train, _NAME)
    return ProbeReport(
        len(whole),
        task="" if judged is None else judged.task,
        nonfinite=bad,
        value_range=_value_range(samples),
        wanted_range=limits,
        duplicates=[[place[i] for i in group] for group in groups],
        contradictions=[
            [place[i] for i in group] for group in groups if labels is not None and not _alike(labels, group)
        ],
        in_training=[place[i] for i, digest in enumerate(known) if digest in trained_on],
        class_counts=counts,
        missing=[] if judged is None else [label for label in range(judged.outputs) if label not in counts],
        rare=[label for label, count in counts.items() if count < min_per_class],
        suspects=[] if judged is None else [replace(found, index=place[found.index]) for found in judged.suspects],
        quality={} if judged is None else judged.quality,
        words={} if judged is None else judged.words,
        bound=guard_bound(len(whole), tolerance=tolerance) if counts else None,
        tolerance=tolerance,
    )


@dataclass(frozen=True, eq=False)
class _Judged:
    """What a model shows of samples: the task, the mean of each quantity, classes and how many the model has an output
    for, and labels that look wrong."""

    task: str
    quality: Mapping[str, float]
    words: Mapping[str, str]
    classes: Tensor | None
    outputs: int
    suspects: list[Suspect]


def _judged(samples: Batch, view: View, task: Task | None) -> _Judged:
    source = ProbeSource(_NAME, samples, task)
    source.check(view)
    measured = source.measure(view)
    quality = {name: float(values.double().mean()) for name, values in measured.items()}
    classes, outputs = source.classes(), 0
    suspects: list[Suspect] = []
    if classes is not None:
        if isinstance(source.task, Classification):
            probabilities = trusted_outputs(samples, view, _NAME).softmax(1)
        else:  # yes or no: the probability of the true answer, and what is left
            own = measured["probability"].double()
            yes = torch.where(classes == 1, own, 1 - own)
            probabilities = torch.stack([1 - yes, yes], 1)
        outputs = probabilities.shape[1]
        suspects = suspected_labels(probabilities, classes)
    name = "" if source.task is None else source.task.name
    return _Judged(name, quality, source.words, classes, outputs, suspects)


def _readable(probe: Any) -> Batch:
    """The probe as a batch, with NaN where it has some; everything else is refused as a guard would."""
    try:
        return as_trusted_data(probe, _NAME, min_samples=2)
    except BatchError:
        found = joined_parts(probe, _NAME)
        if len(found) < 2 or not _nonfinite(found):
            raise
        return found


def _nonfinite(batch: Batch) -> list[int]:
    """The indices of samples with NaN or infinity, where samples lie along the first dimension."""
    found: set[int] = set()
    for path, values in batch.tensors():
        if values.dim() and len(values) == len(batch) and not _is_mask(path, values):
            found.update(nonfinite_rows(values))
    return sorted(found)


def _is_mask(path: str, values: Tensor) -> bool:
    """Whether what is not finite is minus infinity, as in masks that are added to attention scores."""
    return path not in ("x", "y") and bool((values.isfinite() | (values == -torch.inf)).all())


def _value_range(batch: Batch) -> tuple[float, float] | None:
    """The least and the greatest floating-point value of samples."""
    floating = [t for path, t in tensors_in(batch.x, "x") if not is_label(path) and t.is_floating_point() and t.numel()]
    bounds = [torch.aminmax(tensor.detach()) for tensor in floating]
    return (min(float(b.min) for b in bounds), max(float(b.max) for b in bounds)) if bounds else None


def _wider(found: tuple[float, float] | None) -> tuple[float, float] | None:
    """What training batches reach, and as much again to either side: they are a few of many."""
    return None if found is None else (2 * found[0] - found[1], 2 * found[1] - found[0])


def _same(known: list[bytes]) -> list[list[int]]:
    """Groups of indices of what is there more than once, in order."""
    places: dict[bytes, list[int]] = {}
    for index, digest in enumerate(known):
        places.setdefault(digest, []).append(index)
    return [group for group in places.values() if len(group) > 1]


def _has_labels(batch: Batch) -> bool:
    try:
        labels_of(batch, _NAME)
    except LabelError:
        return False
    return True


def _class_labels(labels: Tensor | None) -> Tensor | None:
    """Labels that are one class each."""
    if labels is None or classes_of(labels) is None:
        return None
    return labels.reshape(-1).long()


def _alike(labels: Tensor, group: list[int]) -> bool:
    return all(torch.equal(labels[i], labels[group[0]]) for i in group[1:])


def _counts(classes: Tensor) -> dict[int, int]:
    found, counts = torch.unique(classes, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
