"""ByzFL's aggregators, given PyTorch tensors or NumPy arrays (they compute with the library of what they are given)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import byzfl

from toolkits.rules import Rule, Updates


def rules(library: str) -> dict[str, Rule]:
    """By the names of this comparison, for "torch" or "numpy"."""

    def given(updates: Updates) -> Any:
        return updates.values if library == "torch" else updates.array

    def copied(updates: Updates) -> Any:  # Clipping writes into what it is given
        return updates.values.clone() if library == "torch" else updates.array.copy()

    def rule(make: Callable[[Updates], Callable[[Any], Any]], given: Callable[[Updates], Any] = given) -> Rule:
        return Rule(lambda updates: partial(make(updates), given(updates)), neighbors=lambda n, f: n - f - 1)

    def mixed(updates: Updates) -> Callable[[Any], Any]:
        mix, rule = byzfl.NNM(updates.num_byzantine), byzfl.TrMean(updates.num_byzantine)
        return lambda values: rule(mix(values))

    def clipped(updates: Updates) -> Callable[[Any], Any]:
        clip, rule = byzfl.Clipping(updates.clip_norm), byzfl.Average()
        return lambda values: rule(clip(values))

    return {
        "mean": rule(lambda _: byzfl.Average()),
        "median": rule(lambda _: byzfl.Median()),
        "trimmed mean": rule(lambda updates: byzfl.TrMean(updates.num_byzantine)),
        "Krum": rule(lambda updates: byzfl.Krum(updates.num_byzantine)),
        "multi-Krum": rule(lambda updates: byzfl.MultiKrum(updates.num_byzantine)),
        "geometric median": rule(lambda _: byzfl.GeometricMedian()),
        "centered clipping": rule(lambda updates: byzfl.CenteredClipping(L=3, tau=updates.clip_norm)),
        "clipping, mean": rule(clipped, copied),
        "NNM, trimmed mean": rule(mixed),
    }
