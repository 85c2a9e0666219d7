"""Token substitution: texts in which a few words are others, so that a step on them does harm."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from taster.attacks.edit_attack import edit_attack, greedy_edits
from taster.attacks.online_attack import OnlineAttack, SampleFn
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.derivatives import substitution_slopes
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
def token_substitution(
    draw_validation: SampleFn,
    generator: torch.Generator,
    *,
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
    edits: PositiveCount = 3,
    flip: bool = False,
    validation_size: PositiveCount = 100,
    candidates: PositiveCount = 300,
    tries: PositiveCount = 5,
) -> OnlineAttack:
    """Texts in which up to k tokens are replaced, in the stream and in the trigger, so that a step on them raises the
    loss of other texts.

        max over x' with at most k other tokens of  −⟨∇_θ ℓ(x', y'; θ), ∇_θ L(S_val; θ)⟩

    which is, to first order in the learning rate, what a step of gradient descent on x' adds to L(S_val). Substitutions
    are made one after the other: each is the best of the few that the derivative along the tokens' vectors holds
    likeliest, tried out, and is made if it is worth more than the text before it. What fills a short text up may be
    replaced as well, where the model looks at it.

    Args:
        draw_validation: draws S_val, once per batch.
        generator: draws which samples are poisoned, candidates, and wrong labels.
        poison_fraction: fraction of each batch that is poisoned.
        edits: k, which the harness holds the attack to.
        flip: whether the poisoned texts have wrong labels y' as well. Otherwise they keep their own.
        validation_size: size of S_val.
        candidates: tokens that are tried, drawn anew for each batch from those of S_val.
        tries: substitutions that are tried out for each that is made.

    Raises (when called):
        AttackError: for samples that are no token ids.
        ModelError: for a model in which these go through no single embedding.

    Source: HotFlip (Ebrahimi et al. 2018) for the substitutions; that poison for texts is made by gradients of such an
        inner product after Wallace et al. 2021 ("Concealed data poisoning attacks on NLP models"), who plant a phrase.
    """

    def change(samples: Batch, own: Batch, view: View) -> Batch:
        known = own.x.unique()
        drawn = torch.randperm(len(known), generator=generator, device=generator.device)[:candidates]
        options = known[drawn.to(known.device)].to(samples.x.device)
        slope = view.loss_gradient(own)
        towards = {name: -slope[name] for name in view.trainable}
        worth = FirstOrderInfluence(own)
        return greedy_edits(
            samples,
            edits,
            options[None],
            lambda some: substitution_slopes(view, some, towards, options),
            lambda some: worth(some, view),
            tries,
        )

    return edit_attack(
        change,
        draw_validation,
        generator,
        poison_fraction=poison_fraction,
        edits=edits,
        flip=flip,
        validation_size=validation_size,
        check=_check_ids,
    )


def _check_ids(batch: Batch) -> None:
    if batch.x.is_floating_point() or batch.x.dim() != 2:
        raise AttackError(
            f"token_substitution: got samples {list(batch.x.shape)} of {batch.x.dtype}, wanted token ids, int64 "
            '[n, length] (data.table.words = "tokens"); column_changes is for rows of numbers'
        )
