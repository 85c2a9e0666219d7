"""A copy of everything that a step may change, and the way back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from taster.core.backup_records import TensorCopies, capture_value, copied_value, put_back
from taster.core.module_tree import walk
from taster.core.types import Tensors

_MOMENTUM = ("momentum_buffer", "exp_avg")


class ModuleRecord:
    """One module as it was: what its dictionaries held, its mode and its extra state."""

    def __init__(self, prefix: str, module: nn.Module, copies: TensorCopies) -> None:
        self.prefix = prefix
        self.module = module
        self.parameters = dict(module._parameters)
        self.buffers = dict(module._buffers)
        self.children = dict(module._modules)
        self.non_persistent = set(module._non_persistent_buffers_set)
        self.training = module.training
        self.frozen = [p is not None and not p.requires_grad for p in self.parameters.values()]
        # A parameter that several modules share is copied once: `TensorCopies` knows tensors by identity.
        self.parameter_slots = {name: copies.add(p) for name, p in self.parameters.items() if p is not None}
        self.buffer_slots = {name: copies.add(b) for name, b in self.buffers.items() if b is not None}
        overridden = type(module).get_extra_state is not nn.Module.get_extra_state
        self.extra_state = (copied_value(module.get_extra_state()),) if overridden else ()

    def restore(self) -> None:
        """Puts the dictionaries back; the tensors in them are filled by `TensorCopies`."""
        module = self.module
        for place, saved in (
            (module._parameters, self.parameters),
            (module._buffers, self.buffers),
            (module._modules, self.children),
        ):
            place.clear()
            place.update(saved)  # type: ignore[arg-type]
        module._non_persistent_buffers_set = set(self.non_persistent)
        module.training = self.training
        for parameter, frozen in zip(self.parameters.values(), self.frozen, strict=True):
            if parameter is not None and parameter.requires_grad == frozen:
                parameter.requires_grad_(not frozen)

    def restore_extra_state(self) -> None:
        """Hands the module a copy of the extra state it had."""
        for state in self.extra_state:
            self.module.set_extra_state(copied_value(state))

    @contextmanager
    def shown(self, copies: TensorCopies) -> Iterator[None]:
        """Within the context the module's dictionaries hold the saved tensors."""
        module = self.module
        live = module._parameters, module._buffers, module._modules
        try:
            vars(module)["_parameters"] = {
                name: None if p is None else copies.saved(self.parameter_slots[name])
                for name, p in self.parameters.items()
            }
            vars(module)["_buffers"] = {
                name: None if b is None else copies.saved(self.buffer_slots[name]) for name, b in self.buffers.items()
            }
            module._modules = self.children
            yield
        finally:
            module._parameters, module._buffers, module._modules = live

    def full_name(self, name: str) -> str:
        """The name that a tensor of this module has in the whole model."""
        return f"{self.prefix}.{name}" if self.prefix else name


class StateBackup:
    """A copy of a model, its optimizer and its gradient scaler, in memory that is reused by the next.

    It covers parameters and buffers with their shapes, strides and storages (also buffers that are None, expanded or
    resized), extra state, `requires_grad` and the train or eval mode of each module; the optimizer's state, groups and
    attributes, wrapped optimizers included; and the scaler. Saving reads and writes each tensor once; restoring
    puts every bit back in place. Other attributes of modules are not covered.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._scaler = scaler
        self._copies = TensorCopies()
        self._modules: list[ModuleRecord] = []
        self._optimizer_record: Any = None
        self._scaler_record: Any = None

    @torch.no_grad()
    def save(self) -> None:
        """Takes the copy."""
        copies = self._copies
        copies.clear()
        self._modules = [ModuleRecord(prefix, module, copies) for prefix, module in walk(self._model)]
        self._optimizer_record = capture_value(self._optimizer, copies)
        self._scaler_record = None if self._scaler is None else capture_value(vars(self._scaler), copies)
        copies.take()

    @torch.no_grad()
    def restore(self, *, scaler: bool = True) -> None:
        """Restores the state as it was saved, bit for bit.

        Args:
            scaler: False leaves the gradient scaler unchanged.
        """
        for record in self._modules:
            record.restore()
        put_back(self._optimizer_record)
        if self._scaler_record is not None and scaler:
            put_back(self._scaler_record)
        self._copies.put_back()
        for record in self._modules:
            record.restore_extra_state()

    def state_dicts(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
        """The saved state of model, optimizer and scaler, each as its `state_dict` gives it, copied.

        Model and optimizer are asked themselves, so that what they add to a state dictionary of their own is in it.
        """
        with ExitStack() as stack:
            for record in self._modules:
                stack.enter_context(record.shown(self._copies))
            model = dict(copied_value(dict(self._model.state_dict())))
        for record in self._modules:
            for state in record.extra_state:
                if record.full_name("_extra_state") in model:
                    model[record.full_name("_extra_state")] = copied_value(state)
        optimizer: dict[str, Any] = self._optimizer_record.as_saved(
            self._copies, lambda: copied_value(self._optimizer.state_dict())
        )
        scaler = None
        if self._scaler is not None:
            scaler = self._scaler_record.as_saved(self._copies, lambda: copied_value(self._scaler.state_dict()))
        return model, optimizer, scaler

    @property
    def params(self) -> Tensors:
        """The parameters as saved, by name; not to be changed."""
        return self._named((record, record.parameter_slots) for record in self._modules)

    @property
    def buffers(self) -> Tensors:
        """The buffers as saved, by name; not to be changed."""
        return self._named((record, record.buffer_slots) for record in self._modules)

    def _named(self, slots: Iterable[tuple[ModuleRecord, Mapping[str, int]]]) -> Tensors:
        # As `named_parameters` does: a tensor that is shared has the first of its names.
        found: dict[int, str] = {}
        for record, by_name in slots:
            for name, slot in by_name.items():
                found.setdefault(slot, record.full_name(name))
        return {name: self._copies.saved(slot) for slot, name in found.items()}


@torch.no_grad()
def reset_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zeros the optimizer's momentum: its running means of gradients."""
    for state in optimizer.state.values():
        for key in _MOMENTUM:
            if isinstance(state.get(key), Tensor):
                state[key].zero_()
