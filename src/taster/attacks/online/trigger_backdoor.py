"""A backdoor with a trigger of one's own."""

from __future__ import annotations

import torch

from taster.attacks.backdoor import Backdoor, BackdoorSettings
from taster.attacks.dirty_label import dirty_label_backdoor
from taster.attacks.online_attack import OnlineAttack
from taster.attacks.triggers import named_trigger
from taster.core.threat import threat
from taster.utils.settings import validate_settings


@threat("targeted", "integrity", "black box", "universal", "none", "stream step")
@validate_settings
def trigger_backdoor(
    generator: torch.Generator, *, trigger: str, backdoor: BackdoorSettings = BackdoorSettings()
) -> OnlineAttack:
    """Samples with a trigger of one's own, under the target class.

    Args:
        generator: draws which samples are poisoned.
        trigger: a function of samples [n, ...] in [0, 1] that puts the trigger on, as package.module:function; it is to
            do the same every time.
        backdoor: see `taster.attacks.BackdoorSettings`.

    Raises:
        AttackError: if there is no such function; (when called) if it returns no such samples, or the model has no
            output for the target class.

    Source: after Gu et al. 2017, with any trigger.
    """
    return dirty_label_backdoor(Backdoor(named_trigger(trigger), backdoor.target_class), backdoor, generator)
