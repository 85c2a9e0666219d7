"""The server of a federation: a learner whose batches are rounds of clients' updates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from taster.core.learner import Learner
from taster.core.param_vectors import trainable_parameters
from taster.core.step_record import StepRecord
from taster.errors import BatchError
from taster.federated.aggregation import AggregationRule, aggregate_gradient, check_rule, mean
from taster.federated.replies import ClientReply, NamedClientUpdates
from taster.federated.reply_checks import stack_replies, validate_updates
from taster.federated.reply_format import ReplyFormat, SideData


@dataclass(frozen=True)
class RoundOutcome:
    """The outcome of a round.

    Attributes:
        record: of the step; `samples` counts the clients that were asked.
        rejected_clients: clients that were dropped before the screens, and why, by name.
    """

    record: StepRecord
    rejected_clients: Mapping[str, str]


class Server:
    """Puts the updates of round after round through the learner's guard.

        server = Server(learner, krum(num_byzantine=2))
        outcome = server.receive([ClientReply("a", update_a), ...], invited=["a", "b", "c"])

    Learner, guard, snapshots and transactions are those of online learning; `learner.optimizer` applies the aggregate
    as it would a gradient. What is wanted of a client follows from the model alone: one vector of `size` numbers, and
    the side data that the round asks for. A client that sends anything else is rejected by name, and the round goes on
    with the others.

    Args:
        learner: holds the model.
        rule: of aggregation.
        max_weight_ratio: how many times the median weight of a round a client may claim.

    Raises:
        GuardError: for a rule that is no function of values and weights.
        BatchError: for a `max_weight_ratio` under 1.
    """

    def __init__(self, learner: Learner, rule: AggregationRule = mean, *, max_weight_ratio: float = 10.0) -> None:
        check_rule(rule)
        if not 1 <= max_weight_ratio < math.inf:
            raise BatchError(f"max_weight_ratio: got {max_weight_ratio}, wanted a number of at least 1")
        self.learner = learner
        self.rule = rule
        self.max_weight_ratio = max_weight_ratio

    @property
    def size(self) -> int:
        """d, how many numbers an update has."""
        return sum(p.numel() for p in trainable_parameters(self.learner.model).values())

    def receive(
        self, replies: Iterable[ClientReply], invited: Sequence[str], *, side_data: SideData | None = None
    ) -> RoundOutcome:
        """Runs a round with the replies of its clients.

        Args:
            replies: as they arrived.
            invited: names of the clients that were asked.
            side_data: what they were asked for beside the update; None for nothing.

        Raises:
            BatchError: when nobody, or somebody twice, was invited.
        """
        wanted = ReplyFormat.of(self.learner.model, side_data)
        return self._run(stack_replies(replies, invited, wanted, self.max_weight_ratio))

    def step(self, updates: NamedClientUpdates) -> RoundOutcome:
        """Runs a round with updates that are a matrix already, as a simulation makes them.

        Raises:
            BatchError: when the matrices do not fit the model.
        """
        side: SideData | None = "statistics" if updates.statistics is not None else None
        if updates.buffers is not None:
            if side is not None:
                raise BatchError("got statistics and buffers, wanted one of them, or none")
            side = "buffers"
        wanted = ReplyFormat.of(self.learner.model, side)
        return self._run(validate_updates(updates, wanted, self.max_weight_ratio))

    def _run(self, updates: NamedClientUpdates) -> RoundOutcome:
        return RoundOutcome(self.learner.run(updates, aggregate_gradient(self.rule)), updates.rejected_clients)
