"""What a step may change: model, optimizer, scaler, snapshots and counts, and the one place that knows it."""

from __future__ import annotations

import copy
import logging
import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from taster.core.backup import StateBackup
from taster.core.functional_model import FunctionalModel, Precision
from taster.core.losses import Loss
from taster.core.model_checks import check_optimizer_covers
from taster.core.module_tree import named_tensors
from taster.core.snapshots import Snapshot, SnapshotBuffer
from taster.core.types import Action, StepRecord
from taster.core.view import View
from taster.errors import CheckpointError, ModelError, SnapshotError

_log = logging.getLogger("taster.core.learner")

_OUTCOMES = {Action.COMMIT: "committed", Action.REJECT: "rejected", Action.REWIND: "rewound"}
COUNTERS = ("steps", "committed", "rejected", "rewound", "samples", "dropped", "corrected", "salvaged")


@dataclass(frozen=True)
class Progress:
    """How far a learner has come. It is replaced as a whole, so that it is never half of a step.

    Attributes:
        steps: steps made, refused ones included.
        refusals: updates refused in a row.
        counters: what became of the steps, by name.
    """

    steps: int = 0
    refusals: int = 0
    counters: Mapping[str, int] = field(default_factory=lambda: MappingProxyType(dict.fromkeys(COUNTERS, 0)))

    def after(self, record: StepRecord) -> Progress:
        """The progress once the step of this record is over."""
        salvaged = record.verdict.committed and record.attempts > 1
        grown = {
            "steps": 1,
            _OUTCOMES[record.verdict.action]: 1,
            "samples": record.samples,
            "dropped": record.dropped,
            "corrected": record.corrected,
            "salvaged": int(salvaged),
        }
        counters = {name: count + grown.get(name, 0) for name, count in self.counters.items()}
        refusals = self.refusals
        if record.attempts:
            refusals = 0 if record.verdict.committed else refusals + 1
        return replace(self, steps=self.steps + 1, refusals=refusals, counters=MappingProxyType(counters))


class OpenTransaction(Protocol):
    """What is asked of a transaction while it is open."""

    def state_dicts(self) -> dict[str, Any]:
        """The state before the step, copied."""
        ...


class LearnerState:
    """The part of a learner that a step may change. `step`, `transaction` and `backward` know it, and not the learner.

    Args:
        model, optimizer, loss, snapshots, precision, scaler, micro_batch_size, input_range: as in `taster.Learner`.

    Attributes:
        progress: counts.
        version: the same object while parameters, buffers and optimizer are the same; another one after any change.
        backup: the copy that a transaction goes back to.
        holder: the open transaction, as its only entry: to enter it is one atomic operation.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        *,
        snapshots: SnapshotBuffer | None,
        precision: Precision,
        scaler: torch.amp.GradScaler | None,
        micro_batch_size: int | None,
        input_range: tuple[float, float] | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.snapshots = snapshots
        self.precision: Precision = precision
        self.scaler = scaler
        self.micro_batch_size = micro_batch_size
        self.input_range = input_range
        self.progress = Progress()
        self.version = object()
        self.newest_snapshot: object | None = None
        self.backup = StateBackup(model, optimizer, scaler)
        self.holder: dict[str, OpenTransaction] = {}
        self._functional_model: FunctionalModel | None = None
        self._last_seen: _TensorVersions | None = None
        self._params: dict[str, nn.Parameter] = {}

    @property
    def steps(self) -> int:
        """Steps made, refused ones included."""
        return self.progress.steps

    @property
    def transaction(self) -> OpenTransaction | None:
        """The open transaction, or None between steps."""
        return self.holder.get("transaction")

    def view(self) -> View:
        """What may be seen of the learner now."""
        self.notice_outside_changes()
        version = self.version
        return View(
            self.functional_model,
            lambda: named_tensors(self.model),
            step=self.steps,
            snapshots=self.snapshots,
            state_version=version,
            current=lambda: self.version is version,
            input_range=self.input_range,
        )

    def functional_model(self) -> FunctionalModel:
        """The model as a function, with the structure and the loss that it has now."""
        if self._functional_model is None:
            self._functional_model = FunctionalModel(self.model, self.loss, self.precision)
        else:
            self._functional_model.follow(self.loss)
        return self._functional_model

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the optimizer updates, by name."""
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        return {name: p for name, p in self._parameters().items() if id(p) in held}

    def other_parameters(self) -> list[nn.Parameter]:
        """The parameters that require a gradient and that the optimizer does not hold."""
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        return [p for p in self._parameters().values() if id(p) not in held and p.requires_grad]

    def _parameters(self) -> dict[str, nn.Parameter]:
        # Within a step those that were there when it began: one walk over the model serves all of it.
        return named_tensors(self.model)[0] if self.transaction is None else self._params

    def apply_gradient(self, gradient: Mapping[str, Tensor]) -> None:
        """One optimizer step with this gradient; a parameter without an entry has no gradient.

        Raises:
            ModelError: when the optimizer wants a closure.
        """
        for name, parameter in self.own_parameters().items():
            parameter.grad = gradient.get(name)
        try:
            self.optimizer.step()
        except TypeError as error:
            raise ModelError(
                f"got a {type(self.optimizer).__name__} whose step() failed without a closure ({error}); wanted an "
                "optimizer that steps once on the gradient that is there"
            ) from error
        self.changed()

    def changed(self) -> None:
        """Makes every view handed out so far stale."""
        self.version = object()

    def seen(self) -> None:
        """Remembers the tensors as they are, so that a change from outside is noticed."""
        self._last_seen = _TensorVersions(*named_tensors(self.model))

    def notice_outside_changes(self) -> None:
        """Compares the tensors with those that the last step left.

        Where something else wrote to them, views handed out before are stale; where it wrote to parameters, snapshots
        of before are dropped, since a rewind would bring back what was replaced. Writes through `.data` cannot be
        noticed.

        Raises:
            ModelError: when the optimizer holds other parameters than the model now has.
        """
        if self.transaction is not None:
            return
        params, buffers = named_tensors(self.model)
        self._params = params
        if self._last_seen is None:
            return
        written, moved, replaced = self._last_seen.changes(params, buffers)
        if replaced:
            check_optimizer_covers(self.model, self.optimizer)
        if written or moved or replaced:
            self.changed()
            self._last_seen = _TensorVersions(params, buffers)
        if (written or replaced) and self.snapshots is not None and self.snapshots.steps:
            _log.warning(
                "step %d: parameters were changed from outside; %d snapshots of before are dropped",
                self.steps,
                len(self.snapshots.steps),
            )
            self.snapshots.clear_ring()

    def snapshot(self) -> Snapshot:
        """A snapshot of the present state. Its tensors are the live ones: `SnapshotBuffer` copies what it keeps."""
        return Snapshot(
            step=self.steps,
            params={name: p.detach() for name, p in self.model.named_parameters()},
            buffers=dict(self.model.named_buffers()),
            optimizer=self.optimizer.state_dict(),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot: parameters, buffers and optimizer state. The count of steps goes on.

        Raises:
            CheckpointError: when the snapshot is of another model.
        """
        _load_tensors(dict(self.model.named_parameters()), snapshot.params, "parameter")
        self._load_buffers(snapshot.buffers)
        # Copied, as the optimizer would otherwise go on writing into the snapshot. Learning rates and the like are not
        # what was learned: they stay as the schedule has them.
        present = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({**copy.deepcopy(snapshot.optimizer), "param_groups": present})
        if self.snapshots is not None:
            self.snapshots.forget_after(snapshot.step)
        self.changed()

    def rewind(self, steps: int) -> int:
        """Goes back to the newest snapshot at least `steps` steps old.

        Returns:
            how many steps were undone.

        Raises:
            SnapshotError: when the ring reaches back less far.
        """
        target = self.steps - steps
        if self.snapshots is None:
            raise SnapshotError(
                f"a gate asked to rewind to step {target}, but the learner keeps no snapshots; "
                "wanted Learner(snapshots=SnapshotBuffer())"
            )
        snapshot = self.snapshots.before(target)
        self.restore(snapshot)
        return self.steps - snapshot.step

    def _load_buffers(self, saved: Mapping[str, Tensor]) -> None:
        for prefix, module in self.model.named_modules():
            for key, buffer in module._buffers.items():
                # A buffer that a later step filled is None again, and the other way round.
                value = saved.get(f"{prefix}.{key}" if prefix else key)
                if value is None and buffer is not None and not _shared(self.model, buffer, saved):
                    module._buffers[key] = None
                elif value is not None and (buffer is None or buffer.shape != value.shape):
                    module._buffers[key] = value.detach().clone()
        live = dict(self.model.named_buffers())
        _load_tensors(live, saved, "buffer")


class _TensorVersions:
    """Which tensors a model has, and how often each has been written to."""

    def __init__(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        self._params, self._buffers = list(params.values()), list(buffers.values())
        self._param_versions = list(map(_version, self._params))
        self._buffer_versions = list(map(_version, self._buffers))

    def changes(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> tuple[bool, bool, bool]:
        """Whether parameters were written to, buffers were written to or replaced, and parameters were replaced."""
        replaced = not _identical(params.values(), self._params)
        written = list(map(_version, self._params)) != self._param_versions
        moved = not _identical(buffers.values(), self._buffers) or (
            list(map(_version, self._buffers)) != self._buffer_versions
        )
        return written, moved, replaced


def _identical(tensors: Collection[Tensor], others: Collection[Tensor]) -> bool:
    return len(tensors) == len(others) and all(map(operator.is_, tensors, others))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _shared(model: nn.Module, buffer: Tensor, saved: Mapping[str, Tensor]) -> bool:
    """Whether a buffer without an entry of its own is one that has its entry under another name."""
    return any(other is buffer and name in saved for name, other in model.named_buffers())


def _load_tensors(live: Mapping[str, Tensor], saved: Mapping[str, Tensor], kind: str) -> None:
    differing = sorted(live.keys() ^ saved.keys()) or sorted(n for n in live if live[n].shape != saved[n].shape)
    if differing:
        raise CheckpointError(
            f"got a snapshot of another model: its {kind}s differ in {', '.join(differing[:5])}; wanted one "
            "of this model"
        )
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(saved[name])
