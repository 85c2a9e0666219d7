"""The server of a federation: a learner whose batches are rounds of clients' updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from taster.core.learner import Learner
from taster.core.param_vectors import trainable_parameters
from taster.core.step import guarded_step
from taster.core.types import StepRecord
from taster.federated.aggregation import AggregationRule, aggregate_gradient, mean
from taster.federated.client_updates import ClientReply, NamedClientUpdates, stack_replies, validate_updates


@dataclass(frozen=True)
class RoundOutcome:
    """What became of a round.

    Attributes:
        record: of its step; `samples` counts clients.
        faults: who was dropped before the screens, and why, by name.
    """

    record: StepRecord
    rejected_clients: Mapping[str, str]


class Server:
    """Takes the updates of one round after the other through the learner's guard.

        server = Server(learner, krum(num_byzantine=2))
        outcome = server.receive([ClientReply("a", update_a), ...], invited=["a", "b", "c"])

    The learner, its guard, history and transactions are those of online learning; `learner.optimizer` applies the
    aggregate as it would a gradient.

    Args:
        learner: holds the model.
        rule: of aggregation.
        max_weight_ratio: how many times the median weight of a round a client may claim.
    """

    def __init__(self, learner: Learner, rule: AggregationRule = mean, *, max_weight_ratio: float = 10.0) -> None:
        self.learner = learner
        self.rule = rule
        self.max_weight_ratio = max_weight_ratio

    @property
    def size(self) -> int:
        """d: how many numbers an update has."""
        return sum(p.numel() for p in trainable_parameters(self.learner.model).values())

    def receive(self, replies: Iterable[ClientReply], invited: Sequence[str]) -> RoundOutcome:
        """A round from what came of the clients that were asked."""
        first = next(iter(trainable_parameters(self.learner.model).values()))
        return self._step(stack_replies(replies, invited, first.new_empty(self.size), self.max_weight_ratio))

    def step(self, updates: NamedClientUpdates) -> RoundOutcome:
        """A round from updates that are a matrix already."""
        return self._step(validate_updates(updates, self.max_weight_ratio))

    def _step(self, updates: NamedClientUpdates) -> RoundOutcome:
        record = guarded_step(self.learner, updates, self.learner.guard, aggregate_gradient(self.rule))
        self.learner._record_outcome(record, updates)
        return RoundOutcome(record, updates.rejected_clients)
