"""The clean stream and a clean trigger batch, the baseline of every attack."""

from __future__ import annotations

from taster.attacks.online_attack import OnlineAttack


def none() -> OnlineAttack:
    """No attack: every batch stays clean.

    Source: the control named in every table of Pang et al. 2021 and Zhu et al. 2023.
    """
    return OnlineAttack()
