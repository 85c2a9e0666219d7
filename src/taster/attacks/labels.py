"""Labels that are not a sample's own."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.core.view import View
from taster.errors import AttackError


def wrong_labels(y: Tensor, x: Tensor, view: View, generator: torch.Generator, target_class: int | None) -> Tensor:
    """A class for each sample: the target, or another than its own, each as likely, where there is none.

    Args:
        y: the samples' own classes, [n].
        x: any samples, of which the first tells how many classes the model has.
        view: of the model.
        generator: draws the classes.
        target_class: the class wanted; None for none.

    Raises:
        AttackError: for a target that the model has no output for.
    """
    with torch.no_grad():
        classes = view.forward(x[:1]).shape[1]
    if target_class is not None and target_class >= classes:
        raise AttackError(
            f"target_class: got {target_class}, wanted 0 to {classes - 1}: the model has {classes} classes"
        )
    shift = torch.randint(1, classes, (len(y),), generator=generator, device=generator.device)
    return (y + shift.to(y.device)) % classes if target_class is None else torch.full_like(y, target_class)
