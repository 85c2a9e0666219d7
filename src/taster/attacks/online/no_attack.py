"""The clean stream and a clean trigger batch: what the model would have done by itself."""

from __future__ import annotations

from taster.attacks.online_attack import OnlineAttack


def none() -> OnlineAttack:
    """Leaves every batch as it is.

    Source: the control named in every table of Pang et al. 2021 and Zhu et al. 2023.
    """
    return OnlineAttack()
