"""Evidence that one model is worse than another on the same samples, which may be looked at as often as one likes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BETS = 16


def evidence_of_harm(before: Tensor, after: Tensor, tolerance: float = 0.0) -> float:
    """An e-value against "the mean falls by no more than the tolerance", paired by sample.

        dᵢ = beforeᵢ − afterᵢ
        E = mean over λ of Πᵢ (1 + λ (dᵢ − τ)),   0 < λ < 1 / (1 + τ)

    If the true fall is at most τ, E is at most 1 on average, so that it reaches 1/α with probability α at most
    (Markov): for any number of samples drawn independently of both models, with no normal approximation. Of zeros and
    ones (wrong and right) and with τ = 0 it tests what McNemar's test does. The mean over many λ saves choosing one for
    an unknown fall.

    Args:
        before, after: how well each model does on each sample, from 0 to 1, [n].
        tolerance: τ, from 0 to 1.

    Returns:
        E; 1 for no samples.

    Source: testing by betting: Shafer 2021; Waudby-Smith and Ramdas 2024, Section 4.
    """
    # From timid to bold in equal ratios; never so bold as to lose all at one sample.
    bets = torch.logspace(-2, 0, _BETS, dtype=torch.float64) * 0.95 / (1 + tolerance)
    excess = (before.double() - after.double()).cpu() - tolerance
    logs = torch.log1p(bets[:, None] * excess).sum(1)
    return math.exp(min(float(torch.logsumexp(logs, 0)) - math.log(_BETS), 700.0))
