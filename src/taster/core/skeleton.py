"""A copy of a model's structure that follows the model: its layers, attributes and flags, without its tensors."""

from __future__ import annotations

import copy
import logging
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from taster.core.module_tree import walk
from taster.core.objective import Objective
from taster.core.types import BatchNormMode
from taster.errors import ModelError

_log = logging.getLogger("taster.core.learner")

_SIMPLE = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device)
_STRUCTURE = frozenset({"_parameters", "_buffers", "_modules", "training"})
_SKIPPED = _STRUCTURE | {"_flat_weights"}
"""Where a module's own parameters are no surprise: recurrent layers gather theirs again before each pass."""

_DEPTH = 6


class CannotCopyError(ModelError):
    """A model that `copy.deepcopy` does not take."""


class _Structure:
    """What `Skeleton` and `LiveStructure` share.

    Attributes:
        module: what computes.
        trainable: names of the parameters that require a gradient.
        batch_norms: layers whose mode can be chosen.
        buffer_names: of all buffers, those that are None too.
    """

    module: nn.Module
    trainable: frozenset[str]
    batch_norms: list[_BatchNorm]
    buffer_names: frozenset[str]
    _calling: _Calling

    def call(
        self, objective: Objective, tensors: Mapping[str, Tensor | None], x: Any, y: Any, then: Callable[[Any], Any]
    ) -> Any:
        """What `then` makes of the model's output with these parameters and buffers. It is called while they are in
        place: a backward pass that computes activations again needs them."""
        return self.run(lambda module: then(objective.output(module, x, y)), tensors)

    def run(self, function: Callable[[nn.Module], Any], tensors: Mapping[str, Tensor | None]) -> Any:
        """What a function makes of the module with these parameters and buffers."""
        given = {f"module.{name}": tensor for name, tensor in tensors.items()}
        return functional_call(self._calling, given, (function,))  # type: ignore[arg-type]

    def _describe(self) -> None:
        self._calling = _Calling(self.module)
        self.trainable = frozenset(name for name, p in self.module.named_parameters() if p.requires_grad)
        modules = walk(self.module)
        self.batch_norms = [module for _, module in modules if isinstance(module, _BatchNorm)]
        first: dict[int, tuple[str, str]] = {}  # a shared buffer goes by the first of its names
        self.buffer_names = frozenset(
            f"{prefix}.{name}" if prefix else name
            for prefix, module in modules
            for name, buffer in module._buffers.items()
            if buffer is None or first.setdefault(id(buffer), (prefix, name)) == (prefix, name)
        )


class _Calling(nn.Module):
    """A module whose forward pass is a function of another."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[nn.Module], Any]) -> Any:
        return function(self.module)


def structure_of(model: nn.Module) -> Skeleton | LiveStructure:
    """A model's skeleton; the model itself where it cannot be copied.

    Raises:
        ModelError: for parameters in plain attributes and lists, where no other values can be put.
    """
    try:
        return Skeleton(model)
    except CannotCopyError as error:
        _log.info("%s; views compute with the model itself, in eval mode", error)
        return LiveStructure(model)


class LiveStructure(_Structure):
    """A model that computes itself."""

    def __init__(self, model: nn.Module) -> None:
        self.module = model
        self._describe()

    def renew(self) -> None:
        """Nothing: it is the model itself."""

    def follow(self) -> bool:
        """Whether anything changed: it may have."""
        self._describe()
        return True

    @contextmanager
    def evaluating(self, batch_norm: BatchNormMode) -> Iterator[None]:
        """Within the context the model is in eval mode, but for batch norm where "train" is asked for."""
        modules = [module for _, module in walk(self.module)]
        modes = [module.training for module in modules]
        try:
            for module in modules:
                module.training = batch_norm == "train" and isinstance(module, _BatchNorm)
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode


class Skeleton(_Structure):
    """A deep copy of a module whose tensors lie on the meta device.

    Computing with it costs no memory of its own, and neither its mode nor anything written to it can reach the model.
    Dropout and everything else that is random is off. Sparse embeddings give dense gradients.

    `follow` compares the model with what was copied: layers, names and flags of parameters, buffers that are None, and
    attributes with the plain values inside them. A changed number, flag or string is set on the copy; after any other
    change the copy is made again.

    Args:
        model: any module that `copy.deepcopy` takes.

    Raises:
        CannotCopyError: when the module cannot be copied.
        ModelError: for parameters in plain attributes and lists.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._copy_model()

    @contextmanager
    def evaluating(self, batch_norm: BatchNormMode) -> Iterator[None]:
        """Within the context batch norm is in this mode; everything else is always in eval mode."""
        for module in self.batch_norms:
            module.training = batch_norm == "train"
        try:
            yield
        finally:
            if any(module.training for module in self._copies if not isinstance(module, _BatchNorm)):
                self.module.eval()  # a user's own function has changed it

    def follow(self) -> bool:
        """Brings the copy up to date.

        Returns:
            whether anything in it changed.
        """
        if [module for _, module in walk(self._model)] == self._originals:
            found = list(map(_follow, self._originals, self._seen, self._copies))
            if _Followed.DIFFERS not in found:
                return _Followed.SET in found
        self._copy_model()
        return True

    def renew(self) -> None:
        """Makes the copy again: a function may have added layers to it, or set attributes."""
        self._copy_model()

    def _copy_model(self) -> None:
        model = self._model
        memo: dict[int, Any] = {}
        for parameter in model.parameters():
            memo[id(parameter)] = nn.Parameter(
                torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
            )
        for buffer in model.buffers():
            memo[id(buffer)] = torch.empty_like(buffer, device="meta")
        for _, module in walk(model):
            if isinstance(vars(module).get("forward"), (FunctionType, partial)):
                raise CannotCopyError(
                    f"the forward of a {type(module).__name__} was replaced by a function, which computes with the "
                    "model itself and not with a copy"
                )
            for tensor in _plain_tensors(vars(module)):
                if id(tensor) in memo:
                    raise ModelError(
                        f"got a {type(module).__name__} with a parameter or buffer in a plain attribute or list, "
                        "where a copy of the model cannot follow it; wanted nn.ParameterList, or its registered name"
                    )
                if not tensor.is_leaf:  # activations that a module keeps: deepcopy refuses them
                    memo[id(tensor)] = tensor.detach().clone()
        try:
            self.module: nn.Module = copy.deepcopy(model, memo)
        except Exception as error:
            raise CannotCopyError(f"a {type(model).__name__} cannot be copied ({error})") from error
        self.module.eval()
        self._originals = [module for _, module in walk(model)]
        self._copies = [module for _, module in walk(self.module)]
        self._seen = [_Seen(module) for module in self._originals]
        for module in self._copies:
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                module.sparse = False
        self._describe()


class _Seen:
    """What a module looked like when it was copied."""

    def __init__(self, module: nn.Module) -> None:
        self.type = type(module)
        self.keys = list(vars(module))
        self.values = list(vars(module).values())
        self.mode = self.keys.index("training")
        # Most of what can change inside is empty and stays so: hooks.
        self.empty = [
            value
            for key, value in vars(module).items()
            if isinstance(value, (dict, list, set)) and not value and key not in _STRUCTURE
        ]
        self.inside = [
            (value, fingerprint)
            for key, value in vars(module).items()
            if key not in _STRUCTURE and (fingerprint := _fingerprint(value))
        ]
        self.tensors = _tensors(module)


class _Followed(Enum):
    """What came of a comparison: the same, attributes set on the copy, or a difference that needs another copy."""

    SAME = 0
    SET = 1
    DIFFERS = 2


def _follow(module: nn.Module, seen: _Seen, copied: nn.Module) -> _Followed:
    """Compares a module with its copy; simple attributes that changed are set on the copy."""
    if type(module) is not seen.type or any(seen.empty) or _tensors(module) != seen.tensors:
        return _Followed.DIFFERS
    if any(_fingerprint(value) != fingerprint for value, fingerprint in seen.inside):
        return _Followed.DIFFERS
    now = list(vars(module).values())
    now[seen.mode : seen.mode + 1] = [seen.values[seen.mode]]
    if list(vars(module)) != seen.keys:
        return _Followed.DIFFERS
    if all(map(operator.is_, now, seen.values)):
        return _Followed.SAME
    for key, value, old in zip(seen.keys, now, seen.values, strict=True):
        if value is not old:
            if not (isinstance(value, _SIMPLE) and isinstance(old, _SIMPLE)):
                return _Followed.DIFFERS
            if key != "sparse" or not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                object.__setattr__(copied, key, value)
    seen.values = now
    return _Followed.SET


def _tensors(module: nn.Module) -> tuple[Any, ...]:
    """Names and flags of a module's own parameters and buffers; their values are no part of the structure."""
    parameters, buffers = module._parameters, module._buffers
    if not parameters and not buffers:
        return ()
    return (
        [(name, None if p is None else (id(p), p.requires_grad)) for name, p in parameters.items()],
        [(name, buffer is None) for name, buffer in buffers.items()],
    )


def _plain_tensors(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """Tensors in plain attributes and the containers there: those that are no parameters or buffers of the module."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict) and depth < _DEPTH:
        for key, item in value.items():
            if depth or key not in _SKIPPED:
                yield from _plain_tensors(item, depth + 1)
    elif isinstance(value, (list, tuple)) and depth < _DEPTH:
        for item in value:
            yield from _plain_tensors(item, depth + 1)


def _fingerprint(value: Any, depth: int = 0) -> Any:
    """Something that changes when what can be changed inside a value does; None for what has no such inside."""
    if isinstance(value, (*_SIMPLE, nn.Module)) or depth > _DEPTH:
        return None
    if isinstance(value, Tensor):
        return (id(value), None if value.is_inference() else value._version)
    if isinstance(value, dict):
        return tuple((key, _element(item, depth)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        if isinstance(value, tuple) and all(isinstance(item, _SIMPLE) for item in value):
            return None
        return tuple(_element(item, depth) for item in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(map(id, value)) if isinstance(value, frozenset) else tuple(sorted(map(repr, value)))
    if callable(value) or isinstance(value, type):
        return None
    inside = getattr(value, "__dict__", None)
    return None if not isinstance(inside, dict) else _fingerprint(inside, depth + 1)


def _element(item: Any, depth: int) -> Any:
    """A simple value itself; of any other its identity and its inside."""
    return item if isinstance(item, _SIMPLE) else (id(item), _fingerprint(item, depth + 1))
