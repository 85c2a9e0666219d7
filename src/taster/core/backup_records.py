"""Records of tensors and of nested values, from which both can be put back in place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from taster.core.foreach import cloned_tensors, copy_tensors

_FACTS = frozenset({"_opt_called"})
"""Attributes of an optimizer that say what has been called, and stay true when it is undone: a learning rate's schedule
warns where there is no such call before its own."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


class TensorCopies:
    """Copies of many tensors, in memory that is reused while shapes stay the same.

    A slot keeps the tensor, an alias of its memory (which shows shape, strides and storage as they were, whatever
    becomes of the tensor), and the copy.
    """

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._live: list[Tensor] = []
        self._aliases: list[Tensor] = []
        self._writable: list[Tensor] = []
        self._kept: list[Tensor] = []

    def clear(self) -> None:
        """Forgets the tensors and keeps the memory."""
        self._slots.clear()
        self._live, self._aliases, self._writable = [], [], []

    def add(self, tensor: Tensor) -> int:
        """The slot of a tensor; a tensor that has one already keeps it."""
        new = len(self._live)
        slot = self._slots.setdefault(id(tensor), new)
        if slot == new:
            alias = tensor.detach()
            self._live.append(tensor)
            self._aliases.append(alias)
            self._writable.append(alias if alias.is_contiguous() else _writable(alias))
        return slot

    def take(self) -> None:
        """Copies all tensors that were added."""
        writable = self._writable
        if writable and len(writable) == len(self._kept) and all(map(_alike, writable, self._kept)):
            copy_tensors(self._kept, writable)
        else:
            self._kept = cloned_tensors(writable)

    def put_back(self) -> None:
        """Gives each tensor the memory, the shape and the values that it had."""
        for tensor, alias, writable, kept in zip(self._live, self._aliases, self._writable, self._kept, strict=True):
            storage = alias.untyped_storage()
            needed = int(kept.untyped_storage().nbytes()) + int(writable.storage_offset()) * writable.element_size()
            if storage.nbytes() < needed:
                storage.resize_(needed)
            if not _same_memory(tensor, alias):
                tensor.data = alias
        copy_tensors(self._writable, self._kept)

    @property
    def nbytes(self) -> int:
        """The memory that the copies take, in bytes."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._kept)

    def saved(self, slot: int) -> Tensor:
        """The copy in a slot, in the shape of its tensor; not to be changed."""
        kept, alias, writable = self._kept[slot], self._aliases[slot], self._writable[slot]
        return kept if writable is alias else kept.as_strided(alias.shape, alias.stride())


class DictRecord:
    """A dictionary with what it held."""

    def __init__(self, value: dict[Any, Any], copies: TensorCopies) -> None:
        self._value = value
        self._items = {key: capture_value(item, copies) for key, item in value.items()}

    def put_back(self) -> dict[Any, Any]:
        """Restores the dictionary in place."""
        items = {key: put_back(item) for key, item in self._items.items()}
        self._value.clear()
        self._value.update(items)
        return self._value

    def as_saved(self, copies: TensorCopies, read: Callable[[], Any]) -> Any:
        """What `read` returns while the dictionary holds the saved values."""
        live = dict(self._value)
        try:
            self._value.update(self.saved(copies))
            return read()
        finally:
            self._value.clear()
            self._value.update(live)

    def saved(self, copies: TensorCopies) -> dict[Any, Any]:
        """A dictionary of the saved values."""
        return {key: saved_value(item, copies) for key, item in self._items.items()}


class ListRecord:
    """A list with what it held."""

    def __init__(self, value: list[Any], copies: TensorCopies) -> None:
        self._value = value
        self._items = [capture_value(item, copies) for item in value]

    def put_back(self) -> list[Any]:
        """Restores the list in place."""
        self._value[:] = [put_back(item) for item in self._items]
        return self._value

    def saved(self, copies: TensorCopies) -> list[Any]:
        """A list of the saved values."""
        return [saved_value(item, copies) for item in self._items]


class TupleRecord:
    """A tuple with what it held."""

    def __init__(self, value: tuple[Any, ...], copies: TensorCopies) -> None:
        self._value = value
        self._items = [capture_value(item, copies) for item in value]

    def put_back(self) -> tuple[Any, ...]:
        """Restores what the tuple holds."""
        for item in self._items:
            put_back(item)
        return self._value

    def saved(self, copies: TensorCopies) -> tuple[Any, ...]:
        """A tuple of the saved values."""
        values = [saved_value(item, copies) for item in self._items]
        return type(self._value)(*values) if hasattr(self._value, "_fields") else tuple(values)


class TensorRecord:
    """A tensor, by its slot."""

    def __init__(self, value: Tensor, copies: TensorCopies) -> None:
        self._value = value
        self._slot = copies.add(value)

    def put_back(self) -> Tensor:
        """The tensor itself; `TensorCopies.put_back` restores its values."""
        return self._value

    def saved(self, copies: TensorCopies) -> Tensor:
        """The saved values."""
        return copies.saved(self._slot)


class CopyRecord:
    """Any other value, by a copy: sets, sparse tensors, objects that `copy.deepcopy` takes."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._copy = copied_value(value)

    def put_back(self) -> Any:
        """The object itself with the attributes it had, if it has any; else another copy."""
        restored = copied_value(self._copy)
        if not isinstance(getattr(self._value, "__dict__", None), dict) or isinstance(self._value, Tensor):
            return restored
        vars(self._value).clear()
        vars(self._value).update(vars(restored))
        return self._value

    def saved(self, _: TensorCopies) -> Any:
        """The value as it was saved."""
        return copied_value(self._copy)


class OptimizerRecord:
    """An optimizer: its state, its groups and its other attributes, those of optimizers inside it included."""

    def __init__(self, optimizer: torch.optim.Optimizer, copies: TensorCopies) -> None:
        self._optimizer = optimizer
        self._state = DictRecord(optimizer.state, copies)
        self._group_list = optimizer.param_groups
        # The groups' lists of parameters are never copied: parameters are the model's.
        self._groups = [
            (group, list(group["params"]), {k: capture_value(v, copies) for k, v in group.items() if k != "params"})
            for group in optimizer.param_groups
        ]
        self._attributes = {
            name: capture_value(value, copies)
            for name, value in vars(optimizer).items()
            if name not in ("state", "param_groups", "defaults") and _is_state(value)
        }
        self._names = set(vars(optimizer))

    def put_back(self) -> torch.optim.Optimizer:
        """Restores the optimizer in place."""
        optimizer = self._optimizer
        # The very objects: `Optimizer.load_state_dict` puts others in their place.
        optimizer.state = self._state.put_back()  # type: ignore[assignment]
        optimizer.param_groups = self._group_list
        for group, params, values in self._groups:
            group.clear()
            group["params"] = params
            group.update({key: put_back(value) for key, value in values.items()})
        optimizer.param_groups[:] = [group for group, _, _ in self._groups]
        for name in set(vars(optimizer)) - self._names - _FACTS:
            delattr(optimizer, name)
        for name, value in self._attributes.items():
            setattr(optimizer, name, put_back(value))
        return optimizer

    def as_saved(self, copies: TensorCopies, read: Callable[[], Any]) -> Any:
        """What `read` returns while state and groups are the saved ones."""
        optimizer = self._optimizer
        state, groups = optimizer.state, optimizer.param_groups
        try:
            # In the same objects, which an optimizer around this one may hold too.
            live_state, live_groups = dict(state), [(group, dict(group)) for group in groups]
            state.clear()
            state.update(self._state.saved(copies))
            for (group, _), (_, params, values) in zip(live_groups, self._groups, strict=True):
                group.clear()
                group.update({"params": params} | {key: saved_value(value, copies) for key, value in values.items()})
            return read()
        finally:
            state.clear()
            state.update(live_state)
            for group, live in live_groups:
                group.clear()
                group.update(live)

    def saved(self, _: TensorCopies) -> torch.optim.Optimizer:
        """The optimizer: inside another's attributes it is never read as a value."""
        return self._optimizer


_Record = DictRecord | ListRecord | TupleRecord | TensorRecord | CopyRecord | OptimizerRecord


def capture_value(value: Any, copies: TensorCopies) -> Any:
    """A record of a value, or the value itself where nothing can change it."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        return TensorRecord(value, copies) if value.layout is torch.strided else CopyRecord(value)
    if isinstance(value, torch.optim.Optimizer):
        return OptimizerRecord(value, copies)
    if isinstance(value, dict):
        return DictRecord(value, copies)
    if isinstance(value, list):
        return ListRecord(value, copies)
    if isinstance(value, tuple):
        return TupleRecord(value, copies)
    return value if callable(value) else CopyRecord(value)


def put_back(record: Any) -> Any:
    """Restores a recorded value in place and returns it."""
    return record.put_back() if isinstance(record, _Record) else record


def saved_value(record: Any, copies: TensorCopies) -> Any:
    """A recorded value as it was when the copies were taken."""
    return record.saved(copies) if isinstance(record, _Record) else record


def copied_value(value: Any) -> Any:
    """A deep copy of nested containers; tensors are detached, and cloned all at once. What cannot be copied is returned
    itself."""
    return _copied(value, iter(cloned_tensors(list(_tensors_of(value)))))


def _tensors_of(value: Any) -> Iterator[Tensor]:
    """Those that `_copied` comes across, in its order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors_of(item)


def _copied(value: Any, clones: Iterator[Tensor]) -> Any:
    """The copy, with one clone after the other in the place of tensors."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        return next(clones)
    if isinstance(value, dict):
        try:
            found = copy.copy(value)
        except Exception:  # a dictionary of somebody's own class
            found = {}
        for key, item in value.items():
            found[key] = _copied(item, clones)
        return found
    if isinstance(value, list):
        return [_copied(item, clones) for item in value]
    if isinstance(value, tuple):
        items = [_copied(item, clones) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    try:
        return copy.deepcopy(value)
    except Exception:  # locks, streams, functions of C: nothing that a step is undone by
        return value


def _is_state(value: Any) -> bool:
    """Whether an attribute of an optimizer is a value, and no function, hook or handle."""
    return isinstance(value, (*_PLAIN, Tensor, dict, list, tuple, set, torch.optim.Optimizer)) and not callable(value)


def _writable(alias: Tensor) -> Tensor:
    """A view of a tensor's memory in which each element lies once: expanded tensors cannot be written to."""
    if torch._debug_has_internal_overlap(alias) == 0:
        return alias
    span = 1 + sum((size - 1) * stride for size, stride in zip(alias.shape, alias.stride(), strict=True))
    return alias.as_strided((span,), (1,))


def _same_memory(tensor: Tensor, alias: Tensor) -> bool:
    return (
        tensor.shape == alias.shape
        and tensor.dtype == alias.dtype
        and tensor.device == alias.device
        and tensor.stride() == alias.stride()
        and tensor.data_ptr() == alias.data_ptr()
    )


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and a.stride() == b.stride()
