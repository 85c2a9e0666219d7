"""How strong a poison an attacker feeds: between the clean batch and all that his budget allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from taster.attacks.guard_simulator import GuardSimulator, SimulatedOutcome
from taster.core.batch import Batch

MakeFn = Callable[[float], Batch]
"""Makes the poison of a strength from 0 (nothing is changed) to 1 (all that the budget allows)."""

PassesFn = Callable[[SimulatedOutcome], bool]
"""Whether what a simulated batch did is what the attacker can accept."""


def at_strength(clean: Batch, poisoned: Batch, strength: float) -> Batch:
    """The batch at a point of the line from the clean one to the poisoned one, samples and weight of the loss alike.

    Args:
        clean: where the line begins.
        poisoned: where it ends.
        strength: 0 for the clean batch, 1 for the poisoned one.
    """
    if strength == 0:
        return clean
    weight = clean.loss_weight + strength * (poisoned.loss_weight - clean.loss_weight)
    return replace(poisoned, x=clean.x + strength * (poisoned.x - clean.x), loss_weight=weight)


def strongest(
    simulator: GuardSimulator, make: MakeFn, passes: PassesFn, halvings: int, *, least: float = 0.0, most: float = 1.0
) -> tuple[float, Batch, SimulatedOutcome] | None:
    """The greatest strength that passes, its batch and what it did; None if none was found.

    The search takes harm to grow with strength: it tries the greatest, and then halves the interval between the
    greatest that is known to pass and the least that is known not to.

    Args:
        simulator: tries batches.
        make: makes them.
        passes: what is asked of the outcome.
        halvings: of the interval.
        least, most: its ends; the lower one is not tried.
    """
    low, high = least, most
    found: tuple[float, Batch, SimulatedOutcome] | None = None
    strength = most
    for _ in range(halvings + 1):
        batch = make(strength)
        outcome = simulator.simulate(batch)
        if passes(outcome):
            found, low = (strength, batch, outcome), strength
            if strength == most:
                break
        else:
            high = strength
        strength = (low + high) / 2
    return found


def is_committed(outcome: SimulatedOutcome) -> bool:
    """Whether the copy of the guard committed the batch."""
    return outcome.committed[0]
