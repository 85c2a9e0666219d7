"""Measurements by trusted samples and a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.losses import KnownLabels, known_labels
from taster.core.trusted_data import as_trusted_data, check_trusted_range, class_indices, trusted_output
from taster.core.types import Tensors
from taster.core.view import View, predictions
from taster.errors import LossError
from taster.tasks import Binary, MultiLabel, Task, labels_of, seen_task

_CHUNK = 256


class ProbeSource:
    """Trusted samples, and a task.

    Args:
        stage: name of the gate, for messages.
        probe: the trusted samples.
        task: what is measured; None finds out by the first outputs.
        bfloat16: runs the model under autocast to bfloat16.
        chunk: samples per forward pass.

    Raises:
        BatchError, LabelError: see `taster.core.trusted_data.as_trusted_data`.
    """

    def __init__(
        self, stage: str, probe: Any, task: Task | None, *, bfloat16: bool = False, chunk: int = _CHUNK
    ) -> None:
        self._stage = stage
        self._given_task = task
        self._bfloat16 = bfloat16
        self._chunk = chunk
        self._task = task
        self.probe: Batch = as_trusted_data(probe, stage, min_samples=2)
        self._whole = False
        self._kept: tuple[Tensor, Batch] | None = None
        self._fitting: torch.Size | None = None
        self._known: tuple[object, torch.Size, KnownLabels] | None = None
        if task is not None:
            task.prepare(self._target(self.probe), stage)
        else:
            _check_whole_numbers(labels_of(self.probe, stage), stage)

    @property
    def task(self) -> Task | None:
        """What is measured; None before it is known."""
        return self._task

    @property
    def words(self) -> Mapping[str, str]:
        """Those of the task."""
        return {} if self._task is None else self._task.words

    def check(self, view: View) -> None:
        """Finds the task out, where none was named.

        Raises:
            BatchError, ModelError, LabelError: when samples, labels and model do not belong together.
        """
        self._fitting = self._known = None
        check_trusted_range(self.probe, view, self._stage)
        # Batch norm without running statistics makes each output depend on the batch: then it is asked whole.
        self._whole = view.functional_model.depends_on_batch
        if self._given_task is None:
            some = self.probe if self._whole else self.probe.select(slice(self._chunk))
            with torch.no_grad():
                output = predictions(trusted_output(some, view, self._stage))
                y, loss = labels_of(some, self._stage), view.functional_model.objective.loss
                sequences = output.dim() == 3 and output.shape[:2] == y.shape
                value = _loss_of(view, some) if sequences else None
                every = labels_of(self.probe, self._stage)
            self._task = seen_task(output, y, loss, self._stage, mean_loss=value, every_label=every)
            self._task.prepare(every, self._stage)
        elif isinstance(self._given_task, Binary | MultiLabel):
            self._task = self._given_task.trained_by(view.functional_model.objective.loss)

    @property
    def selectable(self) -> bool:
        """Whether no output depends on the samples beside it."""
        return not self._whole

    def measure(self, view: View, rows: Tensor | None = None) -> Tensors:
        """Quantities of the task, and the loss of each sample: the learner's, or the task's usual one where the
        learner's is none of outputs and labels alone. Several processes share the samples out among them."""
        if self._whole:
            measured = self._rows(view, self.probe)
            return measured if rows is None else {name: values[rows] for name, values in measured.items()}
        total = len(self.probe) if rows is None else len(rows)
        part = view.ranks.part(total)
        if part == slice(0, total):
            samples = self.probe if rows is None else self._selected(rows)
        else:
            samples = self.probe.select(part if rows is None else rows[part])
        return view.ranks.gather_rows(self._rows(view, samples), total)

    def classes(self) -> Tensor | None:
        """Those of the task."""
        return None if self._task is None else self._task.classes(labels_of(self.probe, self._stage))

    def _target(self, batch: Batch) -> Any:
        return labels_of(batch, self._stage)

    def _selected(self, rows: Tensor) -> Batch:
        """The samples with these indices; those of a first look are looked at again and again, and are kept."""
        if self._kept is not None and self._kept[0] is rows:
            return self._kept[1]
        samples = self.probe.select(rows)
        if len(rows) <= self._chunk:
            self._kept = rows, samples
        return samples

    def _rows(self, view: View, samples: Batch) -> Tensors:
        assert self._task is not None, "check comes first"
        step = len(samples) if self._whole else self._chunk
        kept: list[Tensor] = []
        found: list[Tensors] = []
        shapes: set[torch.Size] = set()
        device = next((tensor.device.type for _, tensor in self.probe.tensors()), "cpu")
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=self._bfloat16):
            for start in range(0, len(samples), step):
                batch = samples if step >= len(samples) else samples.select(slice(start, start + step))
                whole = trusted_output(batch, view, self._stage)
                output, y = predictions(whole), self._target(batch)
                own_loss = view.functional_model.objective.compares_predictions(whole, batch.y)
                shapes.add(output.shape[1:])
                if output.shape[1:] != self._fitting:
                    self._task.check(output, y, self._stage)
                if output.dim() <= 2:
                    kept.append(output)
                else:  # outputs of many places are too large to be kept
                    found.append(self._measured(view, output, batch, own_loss=own_loss))
            if samples is self.probe and len(shapes) == 1:
                (self._fitting,) = shapes  # of all labels, so that they need not be looked at again
            if kept:
                every = kept[0] if len(kept) == 1 else torch.cat(kept)
                return self._measured(view, every, samples, own_loss=own_loss)
        return {name: torch.cat([rows[name] for rows in found]) for name in found[0]}

    def _measured(self, view: View, output: Tensor, batch: Batch, *, own_loss: bool) -> Tensors:
        """Of predictions; the loss is the learner's own where it is one of these and the labels."""
        assert self._task is not None
        y = self._target(batch)
        losses = self._own_losses(view, output, batch) if own_loss else self._task.losses(output, y)
        return {**self._task.measure(output, y), "loss": losses}

    def _own_losses(self, view: View, output: Tensor, batch: Batch) -> Tensor:
        """The learner's. All labels are checked with the first outputs of each shape."""
        loss, shape = view.functional_model.objective.loss, output.shape[1:]
        if self._known is None or self._known[0] is not loss or self._known[1] != shape:
            assert loss is not None, "own_loss is of one"
            labels = self.probe.y
            self._known = loss, shape, known_labels(output[:1].expand(len(self.probe), *shape), labels, loss)
        return view.losses(output, batch, known=self._known[2])


def _check_whole_numbers(y: Tensor, stage: str) -> None:
    """Labels that are whole numbers, whatever the task, are class indices; of samples none is ignored."""
    if not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool):
        class_indices(y, stage, ignored=y.dim() > 1)


def _loss_of(view: View, batch: Batch) -> Tensor | None:
    """The training loss of a batch; None where nothing computes one, as in steps of the user's own."""
    try:
        return view.loss(batch)
    except LossError:
        if view.functional_model.objective.loss is None:
            return None
        raise
