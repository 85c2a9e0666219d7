"""What a model and its optimizer must be before the first step."""

from __future__ import annotations

import inspect

import torch
from torch import nn
from torch.nn.parameter import is_lazy

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


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuses optimizers that are not made for the model, that evaluate the loss themselves, or have nothing to learn.

    Raises:
        ModelError: with what to do.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ModelError(
            f"got an optimizer that is a {type(optimizer).__name__}, whose state cannot be restored; wanted a subclass "
            "of torch.optim.Optimizer"
        )
    check_optimizer_covers(model, optimizer)
    if isinstance(optimizer, torch.optim.LBFGS) or _wants_closure(optimizer):
        raise ModelError(
            f"got {type(optimizer).__name__}, which evaluates the loss itself through a closure; wanted an optimizer "
            "that steps once on the gradient that is there"
        )
    if not any(p.requires_grad for group in optimizer.param_groups for p in group["params"]):
        raise ModelError(
            "got a model whose parameters in the optimizer are all frozen, so that nothing can be learned; wanted at "
            "least one with requires_grad"
        )


def check_optimizer_covers(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuses optimizers that hold none of the model's parameters, or others beside them.

    Raises:
        ModelError: with what to do.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    own = {id(p) for p in model.parameters()}
    if not held & own:
        raise ModelError("got an optimizer that holds none of the model's parameters, wanted one made for this model")
    if held - own:
        raise ModelError(
            f"got an optimizer that holds {len(held - own)} parameters outside the model, which no guard sees; wanted "
            "one module that holds them all, and an optimizer made after the last change of its layers"
        )


def _wants_closure(optimizer: torch.optim.Optimizer) -> bool:
    try:
        closure = inspect.signature(optimizer.step).parameters.get("closure")
    except (TypeError, ValueError):
        return False
    return closure is not None and closure.default is inspect.Parameter.empty
