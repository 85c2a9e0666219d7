"""A view of whatever model the owner has at hand."""

from __future__ import annotations

from typing import Any

from torch import nn

from taster.core.functional_model import FunctionalModel
from taster.core.guarded_training import GuardedTraining
from taster.core.losses import AnyLoss
from taster.core.module_tree import named_tensors
from taster.core.objective import ForwardFn, Objective
from taster.core.ranks import unwrapped
from taster.core.view import View
from taster.errors import ModelError


def view_of(model: Any, stage: str, *, loss: AnyLoss | None = None, forward: ForwardFn | None = None) -> View:
    """A read-only view of a learner's model, or of a module.

    Args:
        model: a `Learner` or `Guarded`, which know their loss and forward pass; a `torch.nn.Module`; or a `View`.
        stage: for messages.
        loss, forward: as in `taster.Learner`, for a module.

    Raises:
        ModelError: for anything else.
    """
    if isinstance(model, View):
        return model
    if isinstance(model, GuardedTraining):
        return model.view()
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{stage}: got a {type(model).__name__} as the model, wanted a torch.nn.Module, or the learner around it"
        )
    module = unwrapped(model)
    return View(lambda: FunctionalModel(module, Objective(loss, forward)), lambda: named_tensors(module), step=0)
