"""A backdoor whose trigger is a faint pattern over the whole sample."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from pydantic import Field

from taster.attacks.backdoor import Backdoor, BackdoorSettings
from taster.attacks.dirty_label import dirty_label_backdoor
from taster.attacks.online_attack import OnlineAttack
from taster.attacks.triggers import blended_trigger
from taster.core.threat import threat
from taster.utils.setting_types import Count
from taster.utils.settings import validate_settings


@threat("targeted", "integrity", "black box", "universal", "none", "stream step")
@validate_settings
def blended_backdoor(
    generator: torch.Generator,
    *,
    opacity: Annotated[float, Field(gt=0, le=1)] = 0.2,
    pattern_seed: Count = 0,
    backdoor: BackdoorSettings = BackdoorSettings(),
) -> OnlineAttack:
    """Samples with faint noise blended in, under the target class.

    Args:
        generator: draws which samples are poisoned.
        opacity: of the noise, α.
        pattern_seed: of the noise, which is the same on every sample.
        backdoor: see `taster.attacks.BackdoorSettings`.

    Raises (when called):
        AttackError: if the model has no output for the target class.

    Source: Chen et al. 2017 (blended injection).
    """
    planted = Backdoor(partial(blended_trigger, opacity=opacity, pattern_seed=pattern_seed), backdoor.target_class)
    return dirty_label_backdoor(planted, backdoor, generator, epsilon=opacity)
