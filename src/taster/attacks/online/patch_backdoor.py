"""A backdoor whose trigger is a patch of a few pixels."""

from __future__ import annotations

from functools import partial

import torch

from taster.attacks.backdoor import Backdoor, BackdoorSettings
from taster.attacks.dirty_label import dirty_label_backdoor
from taster.attacks.online_attack import OnlineAttack
from taster.attacks.triggers import patch_trigger
from taster.core.threat import threat
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings


@threat("targeted", "integrity", "black box", "universal", "none", "stream step")
@validate_settings
def patch_backdoor(
    generator: torch.Generator, *, size: PositiveCount = 3, backdoor: BackdoorSettings = BackdoorSettings()
) -> OnlineAttack:
    """Samples with a small checkerboard in the lower right corner, under the target class.

    Args:
        generator: draws which samples are poisoned.
        size: side of the patch, in pixels.
        backdoor: see `taster.attacks.BackdoorSettings`.

    Raises (when called):
        AttackError: if the model has no output for the target class, or the patch does not fit.

    Source: Gu et al. 2017 (BadNets).
    """
    planted = Backdoor(partial(patch_trigger, size=size), backdoor.target_class)
    return dirty_label_backdoor(planted, backdoor, generator)
