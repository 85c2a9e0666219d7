"""Flower's aggregators, on arrays as its strategies have them once the messages are unpacked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flwr.server.strategy import aggregate as flower

from toolkits.rules import Rule, Updates

Results = list[tuple[list[Any], int]]


def rules() -> dict[str, Rule]:
    """By the names of this comparison."""

    def rule(make: Callable[[Updates], Callable[[Results], Any]]) -> Rule:
        return Rule(lambda updates: partial(make(updates), [([row], 1) for row in updates.array]))

    def krum(updates: Updates) -> Callable[[Results], Any]:
        return lambda results: flower.aggregate_krum(results, updates.num_byzantine, 0)

    def multi_krum(updates: Updates) -> Callable[[Results], Any]:
        keep = len(updates.values) - updates.num_byzantine
        return lambda results: flower.aggregate_krum(results, updates.num_byzantine, keep)

    def bulyan(updates: Updates) -> Callable[[Results], Any]:
        return lambda results: flower.aggregate_bulyan(results, updates.num_byzantine, flower.aggregate_krum, to_keep=0)

    def trimmed_mean(updates: Updates) -> Callable[[Results], Any]:
        # Half a client more than f, as the product with n is rounded down.
        fraction = (updates.num_byzantine + 0.5) / len(updates.values)
        return lambda results: flower.aggregate_trimmed_avg(results, fraction)

    return {
        "mean": rule(lambda _: flower.aggregate),
        "median": rule(lambda _: flower.aggregate_median),
        "trimmed mean": rule(trimmed_mean),
        "Krum": rule(krum),
        "multi-Krum": rule(multi_krum),
        "Bulyan": rule(bulyan),
    }
