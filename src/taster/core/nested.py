"""Values with tensors inside: dictionaries, lists, tuples, named tuples, dataclasses and packed sequences of them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from taster.errors import BatchError

Nested = Any
"""A tensor, or a container of such values."""


def tensors_in(value: Nested, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in a nested value with their dotted paths; those of a packed sequence are one, its data."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, PackedSequence):
        yield path, value.data
    else:
        for key, item in children(value):
            yield from tensors_in(item, joined(path, key))


def map_leaves(function: Callable[[str, Any], Any], value: Nested, path: str = "") -> Nested:
    """The nested value with `function(path, leaf)` in place of each leaf: whatever is no container. Containers are new
    ones of the same types; one in which nothing changed is the same."""
    found = list(children(value))
    if not found:
        return function(path, value)
    mapped = {key: map_leaves(function, item, joined(path, key)) for key, item in found}
    if all(mapped[key] is item for key, item in found):
        return value
    return rebuilt(value, mapped)


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """What a container holds, by key, field or index; nothing for anything else, and for containers without tensors
    (a list of strings is a leaf)."""
    if isinstance(value, (Tensor, PackedSequence, str, bytes)):
        return
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    elif isinstance(value, (list, tuple)) and any(_holds_tensors(item) for item in value):
        names = getattr(value, "_fields", None) or map(str, range(len(value)))
        yield from zip(names, value, strict=True)


def rebuilt(value: Any, parts: Mapping[str, Any]) -> Any:
    """A container like `value` that holds these parts, named as `children` names them."""
    if isinstance(value, MutableMapping):
        new = copy.copy(value)
        for key in list(value):
            new[key] = parts[str(key)]
        return new
    if isinstance(value, Mapping):
        return {key: parts[str(key)] for key in value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed: Any = copy.copy(value)
        for name, part in parts.items():
            object.__setattr__(changed, name, part)
        return changed
    if isinstance(value, tuple):
        return type(value)(*parts.values()) if hasattr(value, "_fields") else tuple(parts.values())
    return list(parts.values())


def rebuilt_list(value: Any, items: Sequence[Any]) -> Any:
    """A list or tuple like `value` of other items, of which there may be more or less."""
    return list(items) if isinstance(value, list) else tuple(items)


def paths_in(value: Nested, path: str) -> Iterator[str]:
    """The dotted paths of a nested value, of all containers and leaves in it."""
    yield path
    for key, item in children(value):
        yield from paths_in(item, joined(path, key))


LABEL_KEYS = ("labels", "label", "targets", "target", "y")
"""What dictionaries that hold everything call their labels."""


def is_label(path: str) -> bool:
    """Whether a dotted path is that of labels."""
    return path.split(".")[-1] in LABEL_KEYS


def plain(value: Nested, path: str) -> Nested:
    """The nested value in dictionaries, lists and tuples, tensors and simple values: what can be written to a file.

    Raises:
        BatchError: for anything else in it.
    """
    if isinstance(value, PackedSequence):
        raise BatchError(f"{path}: got a PackedSequence, wanted a padded tensor and its lengths")
    if value is None or isinstance(value, (Tensor, bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {key: plain(item, joined(path, str(key))) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(item, joined(path, str(i))) for i, item in enumerate(value)]
        return rebuilt_list(value, items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: plain(item, joined(path, key)) for key, item in children(value)}
    raise BatchError(f"{path}: got a {type(value).__name__}, wanted tensors, numbers, text and containers of them")


def joined(path: str, key: str) -> str:
    """A dotted path."""
    return f"{path}.{key}" if path else key


def main_output(output: Nested) -> Tensor | None:
    """The tensor of a model's output that predictions are read from: the output itself, its `logits`, its first tensor
    of more than no dimension (a loss in front has none), or its only one; None where that cannot be told."""
    if isinstance(output, Tensor):
        return output
    for key in ("logits", "prediction_logits", "out"):
        found = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if isinstance(found, Tensor):
            return found
    wide = [tensor for _, tensor in tensors_in(output) if tensor.dim()]
    if isinstance(output, (list, tuple)) and wide:
        return wide[0]
    return wide[0] if len(wide) == 1 else None


def own_loss(output: Nested) -> Tensor | None:
    """The loss that a model has computed itself: its output where that is one number, `loss`, or a number in front of a
    tuple."""
    if isinstance(output, Tensor):
        return output if output.dim() == 0 else None
    if isinstance(output, Mapping):
        found = output.get("loss")
    elif isinstance(output, (list, tuple)) and not hasattr(output, "loss"):
        found = output[0] if output else None
    else:
        found = getattr(output, "loss", None)
    return found if isinstance(found, Tensor) and found.numel() == 1 else None


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, (Tensor, PackedSequence)) or any(True for _ in tensors_in(value))
