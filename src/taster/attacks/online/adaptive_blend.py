"""A backdoor that knows of defences which look for triggered samples: pieces of the trigger, and covers."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from taster.attacks.backdoor import Backdoor, BackdoorSettings
from taster.attacks.dirty_label import dirty_label_backdoor
from taster.attacks.online_attack import OnlineAttack
from taster.attacks.triggers import blended_trigger
from taster.core.threat import threat
from taster.errors import AttackError
from taster.utils.setting_types import Count
from taster.utils.settings import validate_settings

_PIECES = 4
"""The trigger is cut into so many pieces each way."""


@threat(
    "targeted",
    "integrity",
    "black box",
    "universal",
    "none",
    "stream step",
    note="The whole trigger is one for all; in training each sample has pieces of its own.",
)
@validate_settings
def adaptive_blend(
    generator: torch.Generator,
    *,
    opacity: Annotated[float, Field(gt=0, le=1)] = 0.2,
    pattern_seed: Count = 0,
    pieces_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5,
    backdoor: BackdoorSettings = BackdoorSettings(cover_fraction=0.05),
) -> OnlineAttack:
    """Poison with random pieces of a blended trigger, beside triggered samples that keep their true labels.

    The pattern is cut into 4 x 4 pieces; each poisoned sample gets a random part of them, drawn anew. Used is the whole
    trigger, which is stronger than anything that was learned.

    Args:
        generator: draws which samples are poisoned, and their pieces.
        opacity: of the noise, α.
        pattern_seed: of the noise.
        pieces_fraction: part of the pieces that a poisoned sample gets.
        backdoor: see `taster.attacks.BackdoorSettings`.

    Raises (when called):
        AttackError: if the samples are no images, or the model has no output for the target class.

    Source: Qi et al. 2022 (Adap-Blend).
    """
    trigger = partial(blended_trigger, opacity=opacity, pattern_seed=pattern_seed)

    def in_pieces(x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise AttackError(f"got samples {list(x.shape)}, wanted images [n, c, h, w]")
        draws = torch.rand(len(x), _PIECES**2, generator=generator, device=generator.device)
        kept = draws.argsort(1).argsort(1) < round(pieces_fraction * _PIECES**2)
        grid = kept.to(x).reshape(-1, 1, _PIECES, _PIECES)
        return torch.where(interpolate(grid, x.shape[2:], mode="nearest") > 0, trigger(x), x)

    planted = Backdoor(trigger, backdoor.target_class)
    return dirty_label_backdoor(planted, backdoor, generator, epsilon=opacity, training_trigger=in_pieces)
