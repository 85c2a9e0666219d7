"""Whether a part of some samples is not like trusted ones, and which, from conformal p-values."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from taster.errors import SettingError

Floats = NDArray[np.float64]

_WORTH = 2.0
"""Poisoned samples dropped are worth as many honest ones dropped: the excess over trusted samples counts the former,
the trusted share the latter, and twice that has to be exceeded."""


def conformal_p_values(scores: Floats, trusted: Floats) -> Floats:
    """p(s) = (1 + number of trusted scores ≥ s) / (m + 1), [n]: under a share p of honest samples lie at p or below.

    Args:
        scores: [n], higher is more suspicious; NaN is the most suspicious.
        trusted: scores of trusted samples, [m].

    Source: Vovk et al. 2005; for tests of outliers Bates et al. 2023.
    """
    below = np.searchsorted(np.sort(trusted), np.nan_to_num(scores, nan=np.inf))
    return np.asarray((1 + len(trusted) - below) / (len(trusted) + 1), dtype=np.float64)


def contamination_limit(p_values: Floats, trusted: int, alpha: float) -> float:
    """The p-value up to which more samples are poisoned than honest; 0 if they may all be honest.

        z(t) = (G(t) − t) / √(v (1 − v) (1/n + 1/m)) > z_α for some t, G(t) the share of p-values up to t
        limit = argmax G(t) − 2 t

    v is the share up to t of samples and trusted samples together. G(t) − t is the share of poisoned samples at t or
    below and t that of honest ones, so that the limit drops the most of the former for the least of the latter.

    Args:
        p_values: of samples, [n].
        trusted: m, the number of trusted samples that the p-values come from.
        alpha: probability of a false alarm at one t.

    Raises:
        SettingError: for an alpha that is no probability.

    Source: the two-sample test of shares at every t is after Donoho and Jin 2004 (higher criticism); the limit is
        taster's own, after the local false discovery rate of Efron et al. 2001.
    """
    if not 0 < alpha < 1:
        raise SettingError(f"contamination: got alpha {alpha}, wanted a number between 0 and 1")
    n = len(p_values)
    # Half a level higher, so that rounding does not part equal values.
    levels = np.arange(1, trusted // 2 + 1) / (trusted + 1)
    half = 0.5 / (trusted + 1)
    if n == 0 or len(levels) == 0:
        return 0.0
    share = np.searchsorted(np.sort(p_values), levels + half) / n
    both = (n * share + trusted * levels + 1) / (n + trusted + 2)
    z = (share - levels) / np.sqrt(both * (1 - both) * (1 / n + 1 / trusted))
    if float(z.max()) <= NormalDist().inv_cdf(1 - alpha):
        return 0.0
    gain = share - _WORTH * levels
    best = int(gain.argmax())
    return float(levels[best] + half) if gain[best] > 0 else 0.0
