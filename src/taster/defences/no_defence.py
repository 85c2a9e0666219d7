"""Plain training, the control that attacks are measured against."""

from __future__ import annotations

from taster.core.guard import Guard


def none() -> Guard:
    """Lets every update through.

    Source: the control of every table ("ST", standard training, in Zhu et al. 2023).
    """
    return Guard()
