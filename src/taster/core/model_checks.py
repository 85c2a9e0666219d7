"""What a model and its optimizer must be before the first step."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from taster.core.wrapped import parameters_of
from taster.errors import ModelError


def check_model(model: nn.Module) -> None:
    """Refuses models of which no step could be undone, or that no step could change.

    Raises:
        ModelError: for TorchScript, sparse buffers and layers that have no shape yet.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ModelError(
            "got a TorchScript module, which views cannot copy; wanted the nn.Module that it was made from"
        )
    lazy = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if is_lazy(tensor)]
    if lazy:
        raise ModelError(
            f"got lazy layers without a shape ({', '.join(lazy[:3])}); wanted a model that has seen one batch: call "
            "model(x) once, then make the optimizer"
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
            raise ModelError(
                f"got {name}, which is sparse or a lazily conjugated or negated view, and could not be "
                "restored in place; wanted a dense tensor of its own: to_dense() or resolve_conj()"
            )


def check_optimizers(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Refuses optimizers that are not made for the model, or have nothing to learn.

    Raises:
        ModelError: with what to do.
    """
    if not optimizers:
        raise ModelError("got no optimizer, wanted at least one")
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ModelError(
                f"got an optimizer that is a {type(optimizer).__name__}, whose state cannot be restored; wanted a "
                "subclass of torch.optim.Optimizer"
            )
    check_optimizers_cover(model, optimizers)
    if not any(p.requires_grad for optimizer in optimizers for p in parameters_of(optimizer)):
        raise ModelError(
            "got a model whose parameters in the optimizer are all frozen, so that nothing can be learned; wanted at "
            "least one with requires_grad"
        )


def check_no_closure(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Refuses optimizers that evaluate the loss themselves.

    Raises:
        ModelError: with what to do.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.LBFGS) or _wants_closure(optimizer):
            raise ModelError(
                f"got {type(optimizer).__name__}, which evaluates the loss itself through a closure; wanted an "
                "optimizer that steps once on the gradient that is there, or taster.Guarded, in which any step is made"
            )


def check_optimizers_cover(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Refuses optimizers that hold none of the model's parameters, or others beside them.

    Raises:
        ModelError: with what to do.
    """
    own = {id(p) for p in model.parameters()}
    for optimizer in optimizers:
        held = set(map(id, parameters_of(optimizer)))
        if not held & own:
            raise ModelError(
                "got an optimizer that holds none of the model's parameters, wanted one made for this model; where its "
                "layers have been replaced: rebuild(optimizer=...)"
            )
        if held - own:
            raise ModelError(
                f"got an optimizer that holds {len(held - own)} parameters outside the model, which no guard sees; "
                "wanted all modules that hold them, and an optimizer made after the last change of the layers: "
                "rebuild(optimizer=...)"
            )


def _wants_closure(optimizer: torch.optim.Optimizer) -> bool:
    try:
        closure = inspect.signature(optimizer.step).parameters.get("closure")
    except (TypeError, ValueError):
        return False
    return closure is not None and closure.default is inspect.Parameter.empty
