"""Column changes: rows of a table in which a few columns are others, so that a step on them does harm."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.edit_attack import edit_attack, greedy_edits
from taster.attacks.online_attack import OnlineAttack, SampleFn
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.errors import AttackError
from taster.scores.influence import FirstOrderInfluence
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "bilevel",
    "stream step",
    note="With `flip` labels are wrong as well.",
)
@validate_settings
def column_changes(
    draw_validation: SampleFn,
    generator: torch.Generator,
    derivatives: Derivatives | None = None,
    *,
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
    edits: PositiveCount = 3,
    flip: bool = False,
    validation_size: PositiveCount = 100,
    tries: PositiveCount = 5,
) -> OnlineAttack:
    """Rows in which up to k columns are changed, in the stream and in the trigger, so that a step on them raises the
    loss of other rows.

        max over x' with at most k other columns of  −⟨∇_θ ℓ(x', y'; θ), ∇_θ L(S_val; θ)⟩

    A changed column takes the smallest or the largest value that the attacker's own rows have in it. Columns are
    changed one after the other: each change is the best of the few that the derivative holds likeliest, tried out, and
    is made if it is worth more than the row before it. For images the columns are pixels.

    Args:
        draw_validation: draws S_val, once per batch.
        generator: draws which samples are poisoned, and wrong labels.
        derivatives: computes the derivative. Default: finite differences in float32.
        poison_fraction: fraction of each batch that is poisoned.
        edits: k, which the harness holds the attack to.
        flip: whether the poisoned rows have wrong labels y' as well. Otherwise they keep their own.
        validation_size: size of S_val.
        tries: changes that are tried out for each that is made.

    Raises (when called):
        AttackError: for token ids, which `token_substitution` replaces.

    Source: taster's own; the greedy choice of values by a derivative, of an inner product of gradients here, after
        Papernot et al. 2016 (the saliency maps of adversarial samples).
    """
    computing = derivatives or Derivatives()

    def change(samples: Batch, own: Batch, view: View) -> Batch:
        ends = torch.stack([own.x.flatten(1).amin(0), own.x.flatten(1).amax(0)], 1).to(samples.x)
        terms = [(-1.0, {name: slope for name, slope in view.loss_gradient(own).items() if name in view.trainable})]
        mixed = computing.mixed(lambda params, x, y: view.loss(x, y, params=params), view.trainable, terms)

        def gains(some: Batch) -> Tensor:
            slopes = mixed(some.x, some.y).flatten(1)
            found: Tensor = slopes[..., None] * (ends[None] - some.x.flatten(1)[..., None])
            return found

        worth = FirstOrderInfluence(own)
        return greedy_edits(samples, edits, ends, gains, lambda some: worth(some, view), tries)

    return edit_attack(
        change,
        draw_validation,
        generator,
        poison_fraction=poison_fraction,
        edits=edits,
        flip=flip,
        validation_size=validation_size,
        check=_check_numbers,
        derivatives=computing,
    )


def _check_numbers(batch: Batch) -> None:
    if not batch.x.is_floating_point():
        raise AttackError(
            f"column_changes: got samples of {batch.x.dtype}, wanted rows of numbers; token_substitution is for token "
            "ids"
        )
