"""All or nothing: one copy of what a step may change, and the way back."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from taster.core.snapshots import Snapshot
from taster.core.types import Action, Tensors, Verdict
from taster.core.view import View
from taster.errors import TransactionError

if TYPE_CHECKING:
    from taster.core.learner import Learner


class StateBackup:
    """A copy of a model's parameters and buffers and of its optimizer's state, in memory that is kept for the next.

    Saving costs one read and one write of those tensors; restoring puts every bit back in place, and removes what the
    optimizer has added since.

    Attributes:
        in_use: whether somebody counts on the copy.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.in_use = False
        self._model = model
        self._optimizer = optimizer
        self._live: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._param_names: list[str] = []
        self._buffer_places: list[tuple[str, dict[str, Tensor | None], str]] = []
        self._states: dict[Tensor, dict[str, Any]] = {}
        self._groups: list[dict[str, Any]] = []

    @torch.no_grad()
    def save(self) -> None:
        """Takes the copy."""
        params = dict(self._model.named_parameters())
        self._param_names = list(params)
        self._buffer_places = [
            (f"{prefix}.{key}" if prefix else key, module._buffers, key)
            for prefix, module in self._model.named_modules()
            for key, buffer in module._buffers.items()
            if buffer is not None
        ]
        live: list[Tensor] = [*params.values()]
        live += [buffers[key] for _, buffers, key in self._buffer_places]  # type: ignore[misc]
        self._states = {}
        for parameter, state in self._optimizer.state.items():
            # Tensors stay as they are here, to be filled again in place; anything else is copied now.
            self._states[parameter] = {
                key: value if isinstance(value, Tensor) else copy.deepcopy(value) for key, value in state.items()
            }
            live += [value for value in state.values() if isinstance(value, Tensor)]
        self._groups = [{k: v for k, v in g.items() if k != "params"} for g in self._optimizer.param_groups]
        live += [v for group in self._groups for v in group.values() if isinstance(v, Tensor)]
        self._live = live
        if len(live) == len(self._kept) and all(map(_alike, live, self._kept)):
            torch._foreach_copy_(self._kept, live)
        else:
            self._kept = [tensor.detach().clone() for tensor in live]

    @torch.no_grad()
    def restore(self) -> None:
        """Puts everything back as it was when saved, bit for bit."""
        torch._foreach_copy_(self._live, self._kept)
        buffers = self._live[len(self._param_names) :]
        for (_, place, key), tensor in zip(self._buffer_places, buffers, strict=False):
            place[key] = tensor
        self._optimizer.state.clear()
        for parameter, state in self._states.items():
            self._optimizer.state[parameter] = dict(state)
        for group, saved in zip(self._optimizer.param_groups, self._groups, strict=True):
            group.update(saved)

    def state_dicts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The model's and the optimizer's state as saved, each in the form of its `state_dict`, copied."""
        kept = {id(live): tensor for live, tensor in zip(self._live, self._kept, strict=True)}
        named = {**self.params, **self.buffers}
        model = {
            name: (named[name] if name in named else kept.get(id(live), live)).detach().clone()
            for name, live in self._model.state_dict(keep_vars=True).items()
        }

        def saved(entry: dict[str, Any]) -> dict[str, Any]:
            return {
                key: kept[id(value)].clone() if isinstance(value, Tensor) else copy.deepcopy(value)
                for key, value in entry.items()
            }

        params = [p for group in self._optimizer.param_groups for p in group["params"]]
        order = {parameter: i for i, parameter in enumerate(dict.fromkeys(params))}
        optimizer = self._optimizer.state_dict()
        return model, {
            **optimizer,
            "state": {order[parameter]: saved(entry) for parameter, entry in self._states.items()},
            "param_groups": [
                {**group, **saved(entry)} for group, entry in zip(optimizer["param_groups"], self._groups, strict=True)
            ],
        }

    @torch.no_grad()
    def reset_momentum(self) -> None:
        """Forgets the optimizer's momentum: its running means of gradients become zero."""
        for state in self._optimizer.state.values():
            for key in ("momentum_buffer", "exp_avg"):
                if isinstance(state.get(key), Tensor):
                    state[key].zero_()

    @property
    def params(self) -> Tensors:
        """The parameters as saved, by name; not to be changed."""
        return dict(zip(self._param_names, self._kept, strict=False))

    @property
    def buffers(self) -> Tensors:
        """The buffers as saved, by name; not to be changed."""
        kept = self._kept[len(self._param_names) :]
        return {name: tensor for (name, _, _), tensor in zip(self._buffer_places, kept, strict=False)}


class Transaction:
    """One step, to be settled by a verdict. Left without one, or by an exception, it undoes itself.

    Attributes:
        before: the learner as it was when the transaction opened; readable until it closes.
    """

    def __init__(self, learner: Learner, state: StateBackup) -> None:
        self._learner = learner
        self._state = state
        self._open = False
        self.before: View

    def __enter__(self) -> Transaction:
        learner = self._learner
        if self._state.in_use:
            raise TransactionError("got a transaction inside another, wanted one at a time")
        self._state.save()
        self._state.in_use = self._open = True
        self._moment = learner._moment
        # Of a state that is there already, no second snapshot: refused steps would push out all that came before.
        if learner.history is not None and learner.history.due(learner.steps) and learner._kept is not self._moment:
            learner.history.append(learner.snapshot())
            learner._kept = self._moment
        self.before = View(
            learner._pure,
            self._state.params,
            self._state.buffers,
            step=learner.steps,
            history=learner.history,
            moment=learner._moment,
            current=lambda: self._open,
        )
        return self

    def apply_verdict(self, verdict: Verdict) -> Verdict:
        """Carries the verdict out and closes the transaction.

        Returns:
            the verdict; of a rewind, with the number of steps that were really undone.

        Raises:
            HistoryError: when a rewind asks for more than the history holds; this step is undone all the same.
        """
        if verdict.action is not Action.COMMIT:
            self._undo()
        if verdict.action is Action.REWIND:
            target = self._learner.steps - verdict.steps
            snapshot = self._learner._require_history(target).before(target)
            self._learner.restore(snapshot)
            verdict = replace(verdict, steps=self._learner.steps - snapshot.step)
        self._close()
        return verdict

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self._undo()
            self._close()

    def _undo(self) -> None:
        self._state.restore()
        self._learner.optimizer.zero_grad()
        # The very state that it was: what was kept or measured of it still holds.
        self._learner._moment = self._moment

    def _close(self) -> None:
        # Last: until then a state that is asked for is the one before the step.
        self._state.in_use = self._open = False


def snapshot_of(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Snapshot:
    """The live state as a snapshot; its tensors are the live ones, to be copied by whoever keeps it."""
    return Snapshot(
        step=step,
        params={name: p.detach() for name, p in model.named_parameters()},
        buffers=dict(model.named_buffers()),
        optimizer=optimizer.state_dict(),
    )


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and a.stride() == b.stride()
