"""Where a gate's measurements come from: trusted samples and a task, or a function of the user's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from taster.core.losses import KnownLabels, known_labels
from taster.core.trusted_data import as_trusted_data, check_trusted_range, class_indices, trusted_output
from taster.core.types import Batch, Tensors
from taster.core.view import View, predictions
from taster.errors import GuardError, LossError, TasterError
from taster.tasks import Binary, MultiLabel, Task, labels_of, seen_task

_log = logging.getLogger("taster.core.learner")

Metric = Callable[[Any, Any], Tensor]
"""(output, y) -> [n]: how well the model does on each sample; higher is better."""

EvaluateFn = Callable[[Any], Any]
"""(model) -> [n], or {name: [n]}: how well the model does on each sample; higher is better."""

_CHUNK = 256


class QualitySource(Protocol):
    """Measures a model, one row a sample."""

    @property
    def probe(self) -> Batch | None:
        """The trusted samples, where it has some."""
        ...

    @property
    def words(self) -> Mapping[str, str]:
        """What each quantity is called in sentences, by its name; those without one go by it."""
        ...

    def check(self, view: View) -> None:
        """Checks that it fits the model, before the first measurement."""
        ...

    @property
    def selectable(self) -> bool:
        """Whether some of the samples can be measured without the others; known after `check`."""
        ...

    def measure(self, view: View, rows: Tensor | None = None) -> Tensors:
        """Quantities by name, [n] each, higher is better; "loss", where there is one, is the loss of each sample.

        Args:
            view: of the model.
            rows: the indices of the samples to measure; None for all.
        """
        ...

    def classes(self) -> Tensor | None:
        """The class of each sample, where each has one."""
        ...


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


class MetricSource(ProbeSource):
    """Trusted samples, and a metric of outputs and targets."""

    def __init__(self, stage: str, probe: Any, metric: Metric) -> None:
        super().__init__(stage, probe, _MetricTask(stage, metric))

    def _target(self, batch: Batch) -> Any:
        return batch.x if batch.y is None else batch.y

    def _measured(self, view: View, output: Tensor, batch: Batch, *, own_loss: bool) -> Tensors:
        assert self._task is not None
        measured = self._task.measure(output, self._target(batch))
        return {**measured, "loss": self._own_losses(view, output, batch)} if own_loss else measured

    def classes(self) -> Tensor | None:
        """None: a metric knows no classes."""
        return None


class EvaluateSource:
    """A function of the user's own that evaluates the model.

    Args:
        stage: name of the gate, for messages.
        evaluate: of the model, in eval mode and without gradients; a copy, which it may do with as it pleases.
    """

    words: Mapping[str, str] = {}
    probe: Batch | None = None
    selectable = False

    def __init__(self, stage: str, evaluate: EvaluateFn) -> None:
        self._stage = stage
        self._evaluate = evaluate
        self._samples: dict[str, tuple[int, bool]] = {}
        self._warned = False

    def check(self, view: View) -> None:
        """Nothing that measuring does not check."""

    def measure(self, view: View, rows: Tensor | None = None) -> Tensors:
        """What the function returns, of all samples or of some.

        Raises:
            GuardError: when it fails, or returns something else than numbers by sample, of as many as before.
        """
        try:
            found = view.evaluate(self._watched)
        except (TasterError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise GuardError(f"{self._stage}: evaluate failed: {error!r}") from error
        named = found if isinstance(found, Mapping) else {"quality": found}
        if not named:
            raise GuardError(f"{self._stage}: evaluate returned nothing, wanted numbers [n], or {{name: numbers}}")
        named_rows = {str(name): self._numbers(str(name), values) for name, values in named.items()}
        sizes = {name: (len(values), values.dtype == torch.bool) for name, values in named_rows.items()}
        if self._samples and sizes != self._samples:
            raise GuardError(
                f"{self._stage}: evaluate returned {_counted(sizes)}, and {_counted(self._samples)} before; wanted the "
                "same samples in the same order each time"
            )
        self._samples = sizes
        return named_rows if rows is None else {name: values[rows] for name, values in named_rows.items()}

    def classes(self) -> Tensor | None:
        """None: it knows no classes."""
        return None

    def _watched(self, model: Any) -> Any:
        """Calls the function, and sees whether it runs the model it is given: another one tells nothing of this."""
        ran: list[bool] = []
        modules = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
        hooks = [module.register_forward_pre_hook(lambda *_: ran.append(True)) for module in modules]
        try:
            return self._evaluate(model)
        finally:
            for hook in hooks:
                hook.remove()
            if modules and not ran and not self._warned:
                self._warned = True
                _log.warning(
                    "%s: evaluate ran no layer of the model that it was given; one that measures another model, from "
                    "outside the function say, cannot see harm: evaluate=lambda model: ... model(x) ...",
                    self._stage,
                )

    def _numbers(self, name: str, values: Any) -> Tensor:
        try:
            rows = torch.as_tensor(values).detach().clone()  # it may be written into at the next call
        except (TypeError, ValueError, RuntimeError):
            rows = torch.empty(0)
        if rows.dim() != 1 or len(rows) < 2 or rows.is_complex() or name == "loss":
            raise GuardError(
                f"{self._stage}: evaluate returned {_described(values)} for {name}, wanted one real number for each "
                "sample, [n], higher for better, of two samples or more, and not called loss"
            )
        return rows if rows.is_floating_point() or rows.dtype == torch.bool else rows.double()


class _MetricTask:
    """A metric as a task."""

    name = "metric"
    words: ClassVar[Mapping[str, str]] = {"metric": "the metric"}

    def __init__(self, stage: str, metric: Metric) -> None:
        self._stage = stage
        self._metric = metric

    def prepare(self, y: Any, stage: str) -> None:
        """Any targets will do."""

    def check(self, output: Tensor, y: Any, stage: str) -> None:
        """The metric knows."""

    def measure(self, output: Tensor, y: Any) -> Tensors:
        """The metric, [n].

        Raises:
            GuardError: for a metric that fails, or does not return one real number per sample.
        """
        try:
            found = self._metric(output, y)
        except (TasterError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise GuardError(
                f"{self._stage}: the metric failed on outputs {_described(output)} and targets {_described(y)}: "
                f"{error!r}"
            ) from error
        if not isinstance(found, Tensor) or found.shape != output.shape[:1] or found.is_complex():
            got = f"{list(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            raise GuardError(f"the metric returned {got}, wanted one real number per sample, [{len(output)}]")
        return {"metric": found.detach().clone()}

    def losses(self, output: Tensor, y: Any) -> Tensor:  # noqa: ARG002
        """None is known."""
        raise GuardError(f"{self._stage}: a metric knows no loss")

    def classes(self, _: Any) -> Tensor | None:
        """None: it knows no classes."""
        return None


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


def _counted(sizes: Mapping[str, tuple[int, bool]]) -> str:
    return ", ".join(f"{count} {'times yes or no' if yes else 'numbers'} as {n}" for n, (count, yes) in sizes.items())


def _described(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
