"""Taster's aggregators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from taster import federated
from taster.federated.aggregators.aggregator import Aggregator
from toolkits.rules import Rule, Updates


def rules() -> dict[str, Rule]:
    """By the names of this comparison."""

    def rule(make: Callable[[Updates], Aggregator]) -> Rule:
        return Rule(lambda updates: partial(make(updates), updates.values, torch.ones(len(updates.values))))

    return {
        "mean": rule(lambda _: federated.weighted_mean()),
        "median": rule(lambda _: federated.coordinate_median()),
        "trimmed mean": rule(lambda updates: federated.trimmed_mean(num_byzantine=updates.num_byzantine)),
        "Krum": rule(lambda updates: federated.krum(num_byzantine=updates.num_byzantine)),
        "multi-Krum": rule(lambda updates: federated.multi_krum(num_byzantine=updates.num_byzantine)),
        "Bulyan": rule(lambda updates: federated.bulyan(num_byzantine=updates.num_byzantine)),
        "geometric median": rule(lambda _: federated.geometric_median()),
        "centered clipping": rule(
            lambda updates: federated.centered_clipping(clip_radius=updates.clip_norm, iterations=3)
        ),
        "clipping, mean": rule(lambda updates: federated.update_clipping(max_norm=updates.clip_norm)),
        "NNM, trimmed mean": rule(
            lambda updates: federated.nearest_neighbor_mixing(
                num_byzantine=updates.num_byzantine, aggregator="trimmed_mean"
            )
        ),
    }
