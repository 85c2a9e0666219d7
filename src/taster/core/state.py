"""What a step may change: model, optimizer, scaler, snapshots and counts, and the one place that knows it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from taster.core.backup import StateBackup
from taster.core.backup_records import copied_value
from taster.core.functional_model import FunctionalModel, Precision
from taster.core.host import Readings
from taster.core.model_checks import check_optimizers_cover
from taster.core.module_tree import named_tensors, walk
from taster.core.objective import Objective
from taster.core.progress import Progress
from taster.core.ranks import Ranks, unwrapped
from taster.core.snapshots import Snapshot, SnapshotBuffer
from taster.core.tensor_versions import TensorVersions
from taster.core.view import View
from taster.core.wrapped import innermost, parameters_of
from taster.errors import CheckpointError, ModelError, SnapshotError

_log = logging.getLogger("taster.core.learner")


class Companion(Protocol):
    """What can join a transaction: a moving average of the weights, a scheduler, counts of one's own."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Loads what `state_dict` returned."""
        ...


class OpenTransaction(Protocol):
    """What is asked of a transaction while it is open."""

    def state_dicts(self) -> dict[str, Any]:
        """The state before the step, copied."""
        ...


class LearnerState:
    """What a step may change. `step`, `transaction` and `backward` know it, and not the learner.

    Args:
        model: the module, or several modules that are trained together.
        optimizers: all that make updates.
        objective: how the model is called, and its loss.
        also: whatever else joins the transaction: modules, and objects with `state_dict` and `load_state_dict`.
        ranks: the processes that train the model together.
        snapshots, precision, scaler, micro_batch_size, input_range: as in `taster.Learner`.

    Attributes:
        model: what is called: the module as it was handed over.
        module: what has the parameters: the same without `DistributedDataParallel` or `torch.compile` around it.
        progress: counts.
        version: the same object while parameters, buffers and optimizers are the same; another one after any change.
        backup: the copy that a transaction goes back to.
        readings: numbers of the step that are still on the device: what they are is known before the update.
        holder: the open transaction, as its only entry: to enter it is one atomic operation.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        objective: Objective,
        *,
        snapshots: SnapshotBuffer | None,
        precision: Precision = "float32",
        scaler: torch.amp.GradScaler | None = None,
        micro_batch_size: int | None = None,
        input_range: tuple[float, float] | None = None,
        also: Sequence[Companion] = (),
        ranks: Ranks | None = None,
    ) -> None:
        self.readings: Readings = Readings()
        self.snapshots = snapshots
        self.precision: Precision = precision
        self.scaler = scaler
        self.micro_batch_size = micro_batch_size
        self.input_range = input_range
        self.also: tuple[Companion, ...] = tuple(also)
        self.ranks: Ranks = Ranks() if ranks is None else ranks
        self.progress: Progress = Progress()
        self.newest_snapshot: object | None = None
        self.holder: dict[str, OpenTransaction] = {}
        self.objective = objective
        self.replace(model, optimizers)

    def replace(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Goes on with another model, or other layers of it, and other optimizers; snapshots of before are dropped."""
        self.model = model
        self.module: nn.Module = unwrapped(model)
        self.optimizers: tuple[torch.optim.Optimizer, ...] = tuple(optimizers)
        self.backup: StateBackup = StateBackup(self.module, self.optimizers, self.scaler, self.also)
        self._functional_model: FunctionalModel | None = None
        self._last_seen: TensorVersions | None = None
        self._params: dict[str, nn.Parameter] = {}
        self.newest_snapshot = None
        self.changed()
        self._forget_past()

    def _forget_past(self) -> None:
        """Drops the snapshots: there is no way back beyond this step any more."""
        self._horizon = self.steps
        if self.snapshots is not None:
            self.snapshots.clear_ring()

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The first optimizer: of a learner with one."""
        return self.optimizers[0]

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
            lambda: named_tensors(self.module),
            step=self.steps,
            snapshots=self.snapshots,
            state_version=version,
            current=lambda: self.version is version,
            input_range=self.input_range,
            ranks=self.ranks,
        )

    def functional_model(self) -> FunctionalModel:
        """The model as a function, with the structure and the loss that it has now."""
        if self._functional_model is None:
            self._functional_model = FunctionalModel(self.module, self.objective, self.precision)
        else:
            self._functional_model.follow(self.objective)
        return self._functional_model

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the optimizers update, by name."""
        held = self._held()
        return {name: p for name, p in self._parameters().items() if id(p) in held}

    def other_parameters(self) -> list[nn.Parameter]:
        """The parameters that require a gradient and that no optimizer holds."""
        held = self._held()
        return [p for p in self._parameters().values() if id(p) not in held and p.requires_grad]

    def _held(self) -> set[int]:
        return {id(p) for optimizer in self.optimizers for p in parameters_of(optimizer)}

    def _parameters(self) -> dict[str, nn.Parameter]:
        # Within a step those that were there when it began: one walk over the model serves all of it.
        return named_tensors(self.module)[0] if self.transaction is None else self._params

    def zero_grad(self) -> None:
        """Clears the gradients of the optimizers' parameters."""
        for optimizer in self.optimizers:
            innermost(optimizer).zero_grad()  # those of Accelerate leave gradients that are being accumulated

    def apply_gradient(self, gradient: Mapping[str, Tensor]) -> None:
        """One step of each optimizer with this gradient; a parameter without an entry has no gradient.

        Raises:
            ModelError: when an optimizer wants a closure.
        """
        for name, parameter in self.own_parameters().items():
            parameter.grad = gradient.get(name)
        for optimizer in self.optimizers:
            try:
                optimizer.step()
            except TypeError as error:
                raise ModelError(
                    f"got a {type(optimizer).__name__} whose step() failed without a closure ({error}); wanted an "
                    "optimizer that steps once on the gradient that is there"
                ) from error
        self.changed()

    def state_dicts(self) -> dict[str, Any]:
        """The state of "model", "optimizers", "scaler" and "also", each as it gives it itself: live tensors."""
        return {
            "model": dict(self.module.state_dict()),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "also": [entry.state_dict() for entry in self.also],
        }

    def synchronize_buffers(self) -> None:
        """Gives all processes the buffers of the first one, as `DistributedDataParallel` does before a forward pass."""
        if self.ranks.size > 1:
            self.ranks.synchronize(list(named_tensors(self.module)[1].values()))

    def changed(self) -> None:
        """Makes every view handed out so far stale."""
        self.version: object = object()

    def seen(self) -> None:
        """Remembers the tensors as they are, so that a change from outside is noticed."""
        self._last_seen = TensorVersions(*named_tensors(self.module))

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
        params, buffers = named_tensors(self.module)
        self._params = params
        if self._last_seen is None:
            return
        written, moved, replaced = self._last_seen.changes(params, buffers)
        if replaced:
            check_optimizers_cover(self.module, self.optimizers)
        if written or moved or replaced:
            self.changed()
            self._last_seen = TensorVersions(params, buffers)
        if (written or replaced) and self.snapshots is not None and self.snapshots.steps:
            _log.warning(
                "step %d: parameters were changed from outside; %d snapshots of before are dropped",
                self.steps,
                len(self.snapshots.steps),
            )
            self._forget_past()

    def snapshot(self) -> Snapshot:
        """A snapshot of the present state. Its tensors are the live ones: `SnapshotBuffer` copies what it keeps."""
        params, buffers = named_tensors(self.module)
        return Snapshot(
            step=self.steps,
            params={name: p.detach() for name, p in params.items() if p.requires_grad},
            buffers=buffers,
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
            also=[entry.state_dict() for entry in self.also],
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot: trained parameters, buffers, the optimizers' state and what joined the transaction.
        The count of steps goes on.

        Raises:
            CheckpointError: when the snapshot is of another model.
        """
        trained = {name: p for name, p in named_tensors(self.module)[0].items() if p.requires_grad}
        _load_tensors(trained, snapshot.params, "parameter")
        self._load_buffers(snapshot.buffers)
        # Copied, as the optimizer would otherwise go on writing into the snapshot. Learning rates and the like are not
        # what was learned: they stay as the schedule has them.
        for optimizer, saved in zip(self.optimizers, snapshot.optimizers, strict=True):
            present = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({**copy.deepcopy(saved), "param_groups": present})
        for entry, kept in zip(self.also, snapshot.also, strict=True):
            entry.load_state_dict(copied_value(kept))
        if self.snapshots is not None:
            self.snapshots.forget_after(snapshot.step)
        self.changed()

    def rewind(self, steps: int) -> int:
        """Goes back to the newest snapshot at least `steps` steps old, but not beyond a change from outside.

        Returns:
            how many steps were undone.

        Raises:
            SnapshotError: when the ring reaches back less far.
        """
        target = max(self.steps - steps, min(self._horizon, self.steps))
        if self.snapshots is None:
            raise SnapshotError(
                f"a gate asked to rewind to step {target}, but the learner keeps no snapshots; "
                "wanted Learner(snapshots=SnapshotBuffer())"
            )
        snapshot = self.snapshots.before(target)
        self.restore(snapshot)
        return self.steps - snapshot.step

    def _load_buffers(self, saved: Mapping[str, Tensor]) -> None:
        for prefix, module in walk(self.module):
            for key, buffer in module._buffers.items():
                # A buffer that a later step filled is None again, and the other way round.
                value = saved.get(f"{prefix}.{key}" if prefix else key)
                if value is None and buffer is not None and not _shared(self.module, buffer, saved):
                    module._buffers[key] = None
                elif value is not None and (buffer is None or buffer.shape != value.shape):
                    module._buffers[key] = value.detach().clone()
        live = named_tensors(self.module)[1]
        _load_tensors(live, saved, "buffer")


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
