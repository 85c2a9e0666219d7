"""A strategy for Flower's ServerApp that runs its rounds through taster's server."""

from __future__ import annotations

import logging
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from taster.core.verdict import Action
from taster.errors import CheckpointError
from taster.federated import RoundOutcome, Server
from taster.integrations.flower.arrays import load_model, model_arrays
from taster.integrations.flower.reply_codec import ReplyCodec, Sends, failure_reason

_log = logging.getLogger(__name__)

_LARGEST = sys.float_info.max


class GuardedStrategy(FedAvg):
    """Any guard and any aggregation rule in a Flower run.

        server = Server(Learner(model, torch.optim.SGD(model.parameters(), 1.0), loss, guard), krum(num_byzantine=2))
        strategy = GuardedStrategy(server)
        result = strategy.start(grid, num_rounds=10)

    A node that fails, is silent, or sends what cannot be used or was not asked for is rejected by name, and the round
    goes on without it. After a round that the guard refused, clients are sent the model of before. Metrics of a round
    are `committed`, `rejected`, `rewound` (the number of steps undone), `clients` and `dropped`, and the median of each
    number that more than half of the accepted clients report. Metrics of evaluation are such medians too.

    Args:
        server: holds the model, its optimizer, the guard and the rule.
        sends, unit, buffers, statistics, weighted_by_key: what clients send, see `ReplyCodec`.
        on_round: called with the outcome of each round, to save `state_dict()` for example.
        fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes: as in Flower's
            FedAvg, which draws the nodes.

    Attributes:
        rounds: the outcome of each round, with the clients that were rejected and why.
        codec: reads what clients send.
    """

    def __init__(
        self,
        server: Server,
        *,
        sends: Sends = "weights",
        unit: float = 1.0,
        buffers: bool = True,
        statistics: bool = False,
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
        self.codec: ReplyCodec = ReplyCodec(sends, unit, buffers, statistics, weighted_by_key)
        self.rounds: list[RoundOutcome] = []
        self._on_round = on_round
        self._invited: dict[int, str] = {}

    def arrays(self) -> ArrayRecord:
        """The present model."""
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
        """Runs rounds, from the server's model or from the arrays given.

        The `server-round` that clients receive continues from the count of a state that has been loaded.

        Raises:
            ModelError: for arrays of another model.
        """
        if initial_arrays is not None:
            load_model(self.server.learner.model, initial_arrays)
        return super().start(grid, self.arrays(), num_rounds, timeout, train_config, evaluate_config, evaluate_fn)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The model, for each of the sampled nodes."""
        messages = list(super().configure_train(self.server.learner.steps + 1, self.arrays(), config, grid))
        # Sorted, as the order of rows decides how sums round.
        messages.sort(key=lambda message: message.metadata.dst_node_id)
        self._invited = {m.metadata.dst_node_id: _name(m.metadata.dst_node_id) for m in messages}
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Runs the round through the guard."""
        if not self._invited:
            return None, None
        replies = list(replies)
        outcome = self.aggregate_replies(replies, self._invited)
        accepted = {node for node, name in self._invited.items() if name not in outcome.rejected_clients}
        sound = [message for message in replies if _sender(message) in accepted]
        return self.arrays(), MetricRecord({**median_metrics(sound, self.weighted_by_key), **round_metrics(outcome)})

    def aggregate_replies(self, replies: Iterable[Message], invited: Mapping[int, str]) -> RoundOutcome:
        """Runs one round with the messages that came back.

        Args:
            replies: as they arrived.
            invited: names of the nodes that were asked, by id.
        """
        model = self.server.learner.model
        read = [self.codec.reply(invited.get(node := _sender(m), _name(node)), m, model) for m in replies]
        outcome = self.server.receive(read, list(invited.values()), side_data=self.codec.side_data)
        self.rounds.append(outcome)
        if self._on_round is not None:
            self._on_round(outcome)
        return outcome

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Medians of the metrics that clients report."""
        sound = []
        for message in replies:
            try:
                if message.has_error():
                    _log.warning("%s: evaluation failed: %s", _name(_sender(message)), failure_reason(message))
                else:
                    _metrics(message)
                    sound.append(message)
            except Exception as error:  # whatever a message of any content makes Flower raise
                _log.warning("%s: evaluation cannot be read: %s", _name(_sender(message)), type(error).__name__)
        return MetricRecord({**median_metrics(sound, self.weighted_by_key)}) if sound else None

    def summary(self) -> None:
        """Logs the settings of the strategy."""
        super().summary()
        _log.info("rule %s, clients send %s", self.server.rule, self.codec.sends)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume; `taster.save_state` writes it."""
        return {"learner": self.server.learner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads the state of `state_dict` into a strategy built in the same way.

        Raises:
            CheckpointError: for another state; nothing has been loaded then.
        """
        if "learner" not in state:
            raise CheckpointError("got a state without 'learner', wanted what GuardedStrategy.state_dict returns")
        self.server.learner.load_state_dict(state["learner"])


def round_metrics(outcome: RoundOutcome) -> dict[str, int]:
    """The outcome of a round as metrics."""
    verdict = outcome.record.verdict
    return {
        "committed": int(verdict.committed),
        "rejected": int(verdict.action is Action.REJECT),
        "rewound": verdict.steps,
        "clients": outcome.record.samples,
        "dropped": len(outcome.rejected_clients),
    }


def median_metrics(replies: Iterable[Message], excluded_key: str) -> dict[str, float]:
    """The median of each finite number that more than half of the replies report, so that no single client moves it.

    Args:
        replies: readable ones.
        excluded_key: a metric that is left out.
    """
    found: defaultdict[str, list[float]] = defaultdict(list)
    count = 0
    for message in replies:
        count += 1
        pairs = _metrics(message)
        own = Counter(key for key, _ in pairs)
        for key, value in pairs:
            if own[key] == 1 and key != excluded_key:
                found[key].append(value)
    return {key: statistics.median(values) for key, values in found.items() if len(values) > count / 2}


def _metrics(message: Message) -> list[tuple[str, float]]:
    """The finite numbers among a message's metrics."""
    found = []
    for record in message.content.metric_records.values():
        for key, value in record.items():
            if isinstance(value, int | float) and -_LARGEST <= value <= _LARGEST:
                found.append((key, float(value)))
    return found


def _sender(message: Message) -> int:
    """The node that sent a message; −1 for a message that does not say."""
    try:
        return int(message.metadata.src_node_id)
    except Exception:  # whatever a message of any content makes Flower raise
        return -1


def _name(node: int) -> str:
    return f"node-{node}"
