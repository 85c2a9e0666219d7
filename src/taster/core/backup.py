"""A copy of everything that a step may change, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from taster.core.backup_records import TensorCopies, capture_value, copied_value, put_back
from taster.core.module_tree import walk
from taster.core.types import Tensors
from taster.errors import ModelError

_MOMENTUM = ("momentum_buffer", "exp_avg")


class ModuleRecord:
    """One module as it was: what its dictionaries held, its mode and its extra state.

    Args:
        prefix: its name in the model.
        module: the module.
        copies: where its tensors are copied.
        changes: whether a parameter can change in a step; of the others no copy is made.
    """

    def __init__(
        self, prefix: str, module: nn.Module, copies: TensorCopies, changes: Callable[[nn.Parameter], bool]
    ) -> None:
        self.prefix = prefix
        self.module = module
        self.parameters: dict[str, nn.Parameter | None] = dict(module._parameters)
        self.buffers: dict[str, torch.Tensor | None] = dict(module._buffers)
        self.children: dict[str, nn.Module | None] = dict(module._modules)
        self.non_persistent: set[str] = set(module._non_persistent_buffers_set)
        self.training: bool = module.training
        self.frozen: list[bool] = [p is not None and not p.requires_grad for p in self.parameters.values()]
        # A parameter that several modules share is copied once: `TensorCopies` knows tensors by identity.
        self.parameter_slots: dict[str, int] = {
            name: copies.add(p) for name, p in self.parameters.items() if p is not None and changes(p)
        }
        self.buffer_slots: dict[str, int] = {name: copies.add(b) for name, b in self.buffers.items() if b is not None}
        overridden = type(module).get_extra_state is not nn.Module.get_extra_state
        self.extra_state: tuple[Any, ...] = (copied_value(module.get_extra_state()),) if overridden else ()

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
                name: copies.saved(self.parameter_slots[name]) if name in self.parameter_slots else p
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


class CompanionRecord:
    """What joined the transaction, by the state that it gives and takes itself."""

    def __init__(self, companion: Any) -> None:
        self._companion = companion
        self._state = copied_value(companion.state_dict())

    def put_back(self) -> None:
        """Hands it a copy of the state it had."""
        self._companion.load_state_dict(copied_value(self._state))

    def saved(self) -> Any:
        """The state it had, copied."""
        return copied_value(self._state)


class StateBackup:
    """A copy of a model, its optimizers and its gradient scaler, in memory that is reused by the next.

    It covers parameters and buffers with their shapes, strides and storages (also buffers that are None, expanded or
    resized), extra state, `requires_grad` and the train or eval mode of each module; the optimizers' state, groups and
    attributes, wrapped optimizers included; the scaler; and what joins the transaction. Saving reads and writes each
    tensor once; restoring puts every bit back in place. Other attributes of modules are not covered, nor are parameters
    that no step changes: those that require no gradient and have none, unless they join the transaction by themselves.

    Args:
        model: the module whose tensors are covered.
        optimizers: all of them.
        scaler: the gradient scaler.
        also: modules, which are covered whole, and objects with `state_dict` and `load_state_dict`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        scaler: torch.amp.GradScaler | None = None,
        also: Sequence[Any] = (),
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._scaler = scaler
        self._also = also
        self._copies = TensorCopies()
        self._scaler_copies = TensorCopies()  # apart, as the scaler may be left as it is
        self._modules: list[ModuleRecord] = []
        self._also_modules: list[ModuleRecord] = []
        self._optimizer_records: list[Any] = []
        self._scaler_record: Any = None
        self._companions: dict[int, CompanionRecord] = {}
        self._left_out: list[tuple[str, nn.Parameter, int]] = []

    @torch.no_grad()
    def save(self) -> None:
        """Takes the copy."""
        copies, scaler_copies = self._copies, self._scaler_copies
        copies.clear()
        scaler_copies.clear()
        joined = self.joined()

        def changes(parameter: nn.Parameter) -> bool:
            return parameter.requires_grad or parameter.grad is not None or id(parameter) in joined

        self._modules = [ModuleRecord(prefix, module, copies, changes) for prefix, module in walk(self._model)]
        self._left_out = [
            (record.full_name(name), p, version_of(p))
            for record in self._modules
            for name, p in record.parameters.items()
            if p is not None and name not in record.parameter_slots
        ]
        self._also_modules = [
            ModuleRecord(prefix, module, copies, lambda _: True)
            for entry in self._also
            if isinstance(entry, nn.Module)
            for prefix, module in walk(entry)
        ]
        self._optimizer_records = [capture_value(optimizer, copies) for optimizer in self._optimizers]
        self._scaler_record = None if self._scaler is None else capture_value(vars(self._scaler), scaler_copies)
        self._companions = {
            i: CompanionRecord(entry) for i, entry in enumerate(self._also) if not isinstance(entry, nn.Module)
        }
        copies.take()
        scaler_copies.take()

    @property
    def nbytes(self) -> int:
        """The memory that the copies of tensors take, in bytes."""
        return self._copies.nbytes

    def joined(self) -> set[int]:
        """The identities of the parameters in the modules that join the transaction by themselves."""
        return {id(p) for entry in self._also if isinstance(entry, nn.Module) for p in entry.parameters()}

    def check_left_out(self) -> None:
        """Checks that nothing has written to frozen parameters, of which there is no copy.

        Raises:
            ModelError: when something has.
        """
        written = [name for name, p, version in self._left_out if version_of(p) != version]
        if written:
            raise ModelError(
                f"got a step that wrote into frozen weights ({', '.join(written[:3])}), of which no copy is kept; "
                "wanted the module that holds them to join the transaction, also=[module], or requires_grad for them "
                "from before the step on"
            )

    @torch.no_grad()
    def restore(self, *, scaler: bool = True) -> None:
        """Restores the state as it was saved, bit for bit.

        Args:
            scaler: False leaves the gradient scaler unchanged.
        """
        modules = [*self._modules, *self._also_modules]
        for record in modules:
            record.restore()
        for saved in self._optimizer_records:
            put_back(saved)
        if self._scaler_record is not None and scaler:
            put_back(self._scaler_record)
            self._scaler_copies.put_back()
        self._copies.put_back()
        for record in modules:
            record.restore_extra_state()
        for companion in self._companions.values():
            companion.put_back()

    def state_dicts(self) -> dict[str, Any]:
        """The saved state of "model", "optimizers", "scaler" and "also", each as its `state_dict` gives it, copied.

        Model and optimizers are asked themselves, so that what they add to a state dictionary of their own is in it.
        """
        model = self._as_saved(self._modules, lambda: dict(self._model.state_dict()))
        for record in self._modules:
            for state in record.extra_state:
                if record.full_name("_extra_state") in model:
                    model[record.full_name("_extra_state")] = copied_value(state)
        optimizers = [
            record.as_saved(self._copies, lambda optimizer=optimizer: copied_value(optimizer.state_dict()))
            for record, optimizer in zip(self._optimizer_records, self._optimizers, strict=True)
        ]
        scaler = None
        if self._scaler is not None:
            scaler = self._scaler_record.as_saved(self._scaler_copies, lambda: copied_value(self._scaler.state_dict()))
        also = [
            self._companions[i].saved()
            if i in self._companions
            else self._as_saved(self._also_modules, entry.state_dict)
            for i, entry in enumerate(self._also)
        ]
        return {"model": model, "optimizers": optimizers, "scaler": scaler, "also": also}

    def _as_saved(self, records: list[ModuleRecord], read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        with ExitStack() as stack:
            for record in records:
                stack.enter_context(record.shown(self._copies))
            return dict(copied_value(dict(read())))

    @property
    def params(self) -> Tensors:
        """The parameters as saved, by name, those that no step changes as they are; not to be changed."""
        found: dict[int, Tensor] = {}
        named: Tensors = {}
        for record in self._modules:
            for name, parameter in record.parameters.items():
                # As `named_parameters` does: a tensor that is shared has the first of its names.
                if parameter is not None and id(parameter) not in found:
                    slot = record.parameter_slots.get(name)
                    found[id(parameter)] = parameter.detach() if slot is None else self._copies.saved(slot)
                    named[record.full_name(name)] = found[id(parameter)]
        return named

    @property
    def buffers(self) -> Tensors:
        """The buffers as saved, by name; not to be changed."""
        slots: dict[int, str] = {}
        for record in self._modules:
            for name, slot in record.buffer_slots.items():
                slots.setdefault(slot, record.full_name(name))
        return {name: self._copies.saved(slot) for slot, name in slots.items()}


def version_of(tensor: Tensor) -> int:
    """How often a tensor has been written to."""
    return 0 if tensor.is_inference() else tensor._version


@torch.no_grad()
def reset_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zeros the optimizer's momentum: its running means of gradients."""
    for state in optimizer.state.values():
        for key in _MOMENTUM:
            if isinstance(state.get(key), Tensor):
                state[key].zero_()
