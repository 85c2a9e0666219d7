"""A strategy for Flower's ServerApp: rounds of clients through taster's server."""

from __future__ import annotations

import logging
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from taster.core.types import Action
from taster.errors import CheckpointError
from taster.federated import RoundOutcome, Server
from taster.integrations.flower.arrays import load_model, model_arrays
from taster.integrations.flower.reply_codec import ReplyCodec, Sends, failure_reason

_log = logging.getLogger(__name__)


class GuardedStrategy(FedAvg):
    """Any guard and any rule of aggregation in a Flower run.

        server = Server(Learner(model, torch.optim.SGD(model.parameters(), 1.0), loss, guard), krum(num_byzantine=2))
        strategy = GuardedStrategy(server)
        result = strategy.start(grid, num_rounds=10)

    A node that fails, is silent, or sends what cannot be used is dropped by name, and the round goes on without it.
    Where the guard refuses a round, the clients of the next are sent the model as it was before. Metrics of a round are
    `committed` or `rejected` or `rewound` (the steps undone), `clients` and `dropped`; beside them the median of each
    number that more than half of the sound clients report. Metrics of evaluation are such medians too.

    Args:
        server: holds the model, its optimizer, the guard and the rule.
        sends, unit, buffers, weighted_by_key: what clients send, see `ReplyCodec`.
        on_round: told of each round after it is over, to save `state_dict()` say.
        fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes: as in Flower's
            FedAvg, which draws the nodes.

    Attributes:
        rounds: what became of each, with who was dropped and why.
    """

    def __init__(
        self,
        server: Server,
        *,
        sends: Sends = "weights",
        unit: float = 1.0,
        buffers: bool = True,
        weighted_by_key: str = "num-examples",
        on_round: Callable[[RoundOutcome], None] | None = None,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
    ) -> None:
        super().__init__(
            fraction_train,
            fraction_evaluate,
            min_train_nodes,
            min_evaluate_nodes,
            min_available_nodes,
            weighted_by_key,
        )
        self.server = server
        self.codec = ReplyCodec(sends, unit, buffers, weighted_by_key)
        self.rounds: list[RoundOutcome] = []
        self._on_round = on_round
        self._invited: dict[int, str] = {}

    def arrays(self) -> ArrayRecord:
        """The model as it is now."""
        return model_arrays(self.server.learner.model)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Runs rounds. The model begins as the server has it, or with the arrays given.

        `server-round`, as clients are told, counts on where a state has been loaded.

        Raises:
            ModelError: for arrays of another model.
        """
        if initial_arrays is not None:
            learner = self.server.learner
            load_model(learner.model, initial_arrays)
            learner.load_state_dict(learner.state_dict())  # so that views of the old weights are told to be stale
        return super().start(grid, self.arrays(), num_rounds, timeout, train_config, evaluate_config, evaluate_fn)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The model for each of the nodes drawn."""
        messages = list(super().configure_train(self.server.learner.steps + 1, self.arrays(), config, grid))
        # In an order of their own: which row is whose decides how sums round.
        messages.sort(key=lambda message: message.metadata.dst_node_id)
        self._invited = {m.metadata.dst_node_id: _name(m.metadata.dst_node_id) for m in messages}
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The round through the guard."""
        if not self._invited:
            return None, None
        replies = list(replies)
        outcome = self.aggregate_replies(replies, self._invited)
        sound = [m for m in replies if self._invited.get(m.metadata.src_node_id) not in outcome.rejected_clients]
        return self.arrays(), MetricRecord({**median_metrics(sound, self.weighted_by_key), **round_metrics(outcome)})

    def aggregate_replies(self, replies: Iterable[Message], invited: Mapping[int, str]) -> RoundOutcome:
        """One round from what came back.

        Args:
            replies: as they came.
            invited: names of those asked, by node.
        """
        model = self.server.learner.model
        read = [self.codec.reply(invited.get(node := m.metadata.src_node_id, _name(node)), m, model) for m in replies]
        outcome = self.server.receive(read, list(invited.values()))
        self.rounds.append(outcome)
        if self._on_round is not None:
            self._on_round(outcome)
        return outcome

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Medians of what clients report."""
        sound = []
        for message in replies:
            if message.has_error():
                _log.warning("%s: evaluation failed: %s", _name(message.metadata.src_node_id), failure_reason(message))
            else:
                sound.append(message)
        return MetricRecord({**median_metrics(sound, self.weighted_by_key)}) if sound else None

    def summary(self) -> None:
        """Logs what it is made of."""
        super().summary()
        _log.info("rule %s, clients send %s", self.server.rule, self.codec.sends)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on; `taster.save_state` writes it."""
        return {"learner": self.server.learner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up the state of `state_dict`, for a strategy built in the same way.

        Raises:
            CheckpointError: for another state; nothing has been loaded then.
        """
        if "learner" not in state:
            raise CheckpointError("got a state without 'learner', wanted what GuardedStrategy.state_dict returns")
        self.server.learner.load_state_dict(state["learner"])


def round_metrics(outcome: RoundOutcome) -> dict[str, int]:
    """A round as metrics."""
    verdict = outcome.record.verdict
    return {
        "committed": int(verdict.committed),
        "rejected": int(verdict.action is Action.REJECT),
        "rewound": verdict.steps,
        "clients": outcome.record.samples,
        "dropped": len(outcome.rejected_clients),
    }


def median_metrics(replies: Iterable[Message], excluded_key: str) -> dict[str, float]:
    """The median of each finite number that more than half of the replies report: one client alone moves none."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    count = 0
    for message in replies:
        count += 1
        own = Counter(key for record in message.content.metric_records.values() for key in record)
        for record in message.content.metric_records.values():
            for key, value in record.items():
                if own[key] == 1 and key != excluded_key and isinstance(value, int | float) and math.isfinite(value):
                    found[key].append(float(value))
    return {key: statistics.median(values) for key, values in found.items() if len(values) > count / 2}


def _name(node: int) -> str:
    return f"node-{node}"
