"""Random edits: the control that poison by changes of single values has to beat."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from taster.attacks.edit_attack import edit_attack
from taster.attacks.online_attack import OnlineAttack, SampleFn
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "black box",
    "individual",
    "none",
    "stream step",
    note="A control: as many changes as an attack's, with no aim. With `flip` labels are wrong as well.",
)
@validate_settings
def random_edits(
    draw_validation: SampleFn,
    generator: torch.Generator,
    *,
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
    edits: PositiveCount = 3,
    flip: bool = False,
    validation_size: PositiveCount = 100,
) -> OnlineAttack:
    """Random tokens, or the smallest or the largest value, in k random places of each poisoned sample.

    Args:
        draw_validation: draws the attacker's own samples, once per batch: tokens are theirs, and so is the range of a
            column.
        generator: draws which samples are poisoned, places, values and wrong labels.
        poison_fraction: fraction of each batch that is poisoned.
        edits: k.
        flip: whether the poisoned samples have wrong labels as well.
        validation_size: how many own samples are drawn.

    Source: taster's own; the control of `token_substitution` and `column_changes`.
    """

    def change(samples: Batch, own: Batch, view: View) -> Batch:
        values, x = own.x.flatten(1).cpu(), samples.x.flatten(1).clone()
        count, device = min(edits, x.shape[1]), generator.device
        at = torch.stack([torch.randperm(x.shape[1], generator=generator, device=device)[:count] for _ in x]).cpu()
        if x.is_floating_point():
            ends = torch.stack([values.amin(0), values.amax(0)])
            drawn = ends[torch.randint(2, at.shape, generator=generator, device=device).cpu(), at]
        else:
            known = values.unique()
            drawn = known[torch.randint(len(known), at.shape, generator=generator, device=device).cpu()]
        x.scatter_(1, at.to(x.device), drawn.to(x))
        return Batch(x.reshape(samples.x.shape), samples.y)

    return edit_attack(
        change,
        draw_validation,
        generator,
        poison_fraction=poison_fraction,
        edits=edits,
        flip=flip,
        validation_size=validation_size,
    )
