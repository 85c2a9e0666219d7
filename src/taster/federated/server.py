"""The server of a federation: a learner whose batches are rounds of clients' updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from taster.core.learner import Learner
from taster.core.param_vectors import trainable_parameters
from taster.core.step import guarded_step
from taster.core.types import StepRecord
from taster.federated.aggregation import Rule, aggregated, mean
from taster.federated.client_updates import ClientUpdates, Reply, receive, vetted


@dataclass(frozen=True)
class Round:
    """What became of a round.

    Attributes:
        record: of its step; `samples` counts clients.
        faults: who was dropped before the screens, and why, by name.
    """

    record: StepRecord
    faults: Mapping[str, str]


class Server:
    """Takes the updates of one round after the other through the learner's guard.

        server = Server(learner, krum(byzantine=2))
        outcome = server.receive([Reply("a", update_a), ...], invited=["a", "b", "c"])

    The learner, its guard, history and transactions are those of online learning; `learner.optimizer` applies the
    aggregate as it would a gradient.

    Args:
        learner: holds the model.
        rule: of aggregation.
        heaviest: how many times the median weight of a round a client may claim.
    """

    def __init__(self, learner: Learner, rule: Rule = mean, *, heaviest: float = 10.0) -> None:
        self.learner = learner
        self.rule = rule
        self.heaviest = heaviest

    @property
    def size(self) -> int:
        """d: how many numbers an update has."""
        return sum(p.numel() for p in trainable_parameters(self.learner.model).values())

    def receive(self, replies: Iterable[Reply], invited: Sequence[str]) -> Round:
        """A round from what came of the clients that were asked."""
        first = next(iter(trainable_parameters(self.learner.model).values()))
        return self._step(receive(replies, invited, first.new_empty(self.size), self.heaviest))

    def step(self, updates: ClientUpdates) -> Round:
        """A round from updates that are a matrix already."""
        return self._step(vetted(updates, self.heaviest))

    def _step(self, updates: ClientUpdates) -> Round:
        record = guarded_step(self.learner, updates, self.learner.guard, aggregated(self.rule))
        self.learner._record_outcome(record, updates)
        return Round(record, updates.faults)
