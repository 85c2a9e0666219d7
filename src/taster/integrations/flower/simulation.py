"""Rounds of a population through Flower: clients are nodes, wherever the engine runs them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from taster.attacks import UpdateAttack
from taster.core.types import Batch, Phase
from taster.errors import WorkerError
from taster.federated import Invited, Round, Simulation
from taster.integrations.flower.collusion_grid import Colluders
from taster.integrations.flower.reply_codec import reason_of
from taster.integrations.flower.simulated_clients import seat_content
from taster.integrations.flower.strategy import GuardedStrategy


@dataclass
class FlowerSimulation(Simulation):
    """A `Simulation` whose clients compute on the nodes of a grid that run `seats_app`, one node a client of a round.

    Who is drawn, what samples each has and what the attacker does are the same as in the simulation in one process;
    so are the results, but for the order in which numbers are added up.

    Attributes:
        grid: of the ServerApp that this runs in. It needs as many nodes as a round has clients.

    Raises (in a round):
        WorkerError: when there are fewer nodes, or one fails: the results would be others without a word.
    """

    grid: Grid | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._strategy = GuardedStrategy(self.server, sends="updates")

    def round(self, phase: Phase, trigger: Batch | None = None) -> Round:
        """The next round."""
        assert self.grid is not None
        invited = self.population.draw() if trigger is None else self.population.strike(trigger)
        nodes = sorted(self.grid.get_node_ids())
        if len(nodes) < len(invited.clients):
            raise WorkerError(f"got {len(nodes)} nodes, wanted one for each of the {len(invited.clients)} of a round")
        grid = self.grid
        if isinstance(self.campaign, UpdateAttack):  # others poison samples, before they are dealt out
            grid = Colluders(grid, self._strategy, self.campaign, lambda _: phase)
        replies = list(grid.send_and_receive(self._messages(invited, phase, nodes)))
        failed = [reason_of(reply) for reply in replies if reply.has_error()]
        if failed or len(replies) < len(invited.clients):
            raise WorkerError(
                f"{len(invited.clients) - len(replies) + len(failed)} of {len(invited.clients)} nodes failed: "
                f"{failed[0] if failed else 'they sent nothing'}"
            )
        outcome = self._strategy.take(replies, dict(zip(nodes, invited.clients, strict=False)))
        return replace(outcome, record=replace(outcome.record, phase=phase))

    def _messages(self, invited: Invited, phase: Phase, nodes: list[int]) -> list[Message]:
        batch, scale = self._poisoned(invited, phase)
        arrays = self._strategy.arrays()
        starts = torch.tensor([0, *invited.counts]).cumsum(0).tolist()
        together = self.gradients.statistics == "synchronised"
        messages = []
        for i, (begin, end) in enumerate(pairwise(starts)):
            mine = bool(invited.malicious[i])
            colludes = mine and isinstance(self.campaign, UpdateAttack)
            part = slice(None) if together else slice(begin, end)
            counts, place = (invited.counts, i) if together else (invited.counts[i : i + 1], 0)
            factor = scale if mine else 1.0
            content = seat_content(
                arrays, batch.x[part], batch.y[part], counts, place, malicious=colludes, scale=factor
            )
            messages.append(Message(content, nodes[i], MessageType.TRAIN))
        return messages
