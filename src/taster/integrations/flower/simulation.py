"""Federated simulation on Flower, with a node for each client of a round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from taster.attacks import UpdateAttack
from taster.core.batch import Batch
from taster.core.step_record import Phase
from taster.errors import WorkerError
from taster.federated import Cohort, RoundOutcome, Simulation
from taster.integrations.flower.collusion_grid import CollusionGrid
from taster.integrations.flower.reply_codec import failure_reason
from taster.integrations.flower.simulated_clients import client_request
from taster.integrations.flower.strategy import GuardedStrategy


@dataclass
class FlowerSimulation(Simulation):
    """A `Simulation` whose clients compute on the nodes of a grid, which run `simulated_clients_app`.

    Clients, samples and attacks are those of the simulation in one process, and so are the results, except that sums
    round differently.

    Attributes:
        grid: of the ServerApp that this runs in, with at least as many nodes as a round has clients.

    Raises (in a round):
        WorkerError: when there are fewer nodes, or one fails: without it the results would differ silently.
    """

    grid: Grid | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        synchronized = self.gradients.statistics == "synchronized"
        self._strategy = GuardedStrategy(self.server, sends="updates", statistics=synchronized)

    def round(self, phase: Phase, trigger: Batch | None = None) -> RoundOutcome:
        """Runs the next round."""
        assert self.grid is not None
        invited = self.pool.draw() if trigger is None else self.pool.draw_with_trigger(trigger)
        nodes = sorted(self.grid.get_node_ids())
        if len(nodes) < len(invited.clients):
            raise WorkerError(f"got {len(nodes)} nodes, wanted one for each of the {len(invited.clients)} of a round")
        grid = self.grid
        if isinstance(self.attack, UpdateAttack):  # other attacks poison the samples before nodes receive them
            grid = CollusionGrid(grid, self._strategy, self.attack, lambda _: phase)
        replies = list(grid.send_and_receive(self._messages(invited, phase, nodes)))
        failed = [failure_reason(reply) for reply in replies if reply.has_error()]
        if failed or len(replies) < len(invited.clients):
            raise WorkerError(
                f"{len(invited.clients) - len(replies) + len(failed)} of {len(invited.clients)} nodes failed: "
                f"{failed[0] if failed else 'they sent nothing'}"
            )
        outcome = self._strategy.aggregate_replies(replies, dict(zip(nodes, invited.clients, strict=False)))
        return replace(outcome, record=replace(outcome.record, phase=phase))

    def _messages(self, invited: Cohort, phase: Phase, nodes: list[int]) -> list[Message]:
        batch, scale = self._poisoned(invited, phase)
        arrays = self._strategy.arrays()
        starts = torch.tensor([0, *invited.counts]).cumsum(0).tolist()
        together = self.gradients.statistics == "synchronized"
        messages = []
        for i, (begin, end) in enumerate(pairwise(starts)):
            mine = bool(invited.malicious[i])
            colludes = mine and isinstance(self.attack, UpdateAttack)
            part = slice(None) if together else slice(begin, end)
            counts, place = (invited.counts, i) if together else (invited.counts[i : i + 1], 0)
            factor = scale if mine else 1.0
            content = client_request(
                arrays, batch.x[part], batch.y[part], counts, place, malicious=colludes, scale=factor
            )
            messages.append(Message(content, nodes[i], MessageType.TRAIN))
        return messages
