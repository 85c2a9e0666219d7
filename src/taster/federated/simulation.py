"""A federation in one process: all clients' updates are computed at once, and the attacker's are replaced."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from taster.attacks.online_attack import OnlineAttack
from taster.attacks.update_attack import RoundKnowledge, UpdateAttack
from taster.client_gradients import ClientGradients, empty_updates
from taster.core.batch import Batch
from taster.core.step_record import Phase
from taster.federated.client_pool import ClientPool, Cohort
from taster.federated.replies import NamedClientUpdates
from taster.federated.server import RoundOutcome, Server


@dataclass
class Simulation:
    """Runs rounds of a pool of clients through a server.

    Attributes:
        server: aggregates the updates.
        pool: draws clients and their samples.
        gradients: computes what clients send.
        attack: poisons what the attacker's clients send or, for an attack of online learning, their samples.
    """

    server: Server
    pool: ClientPool
    gradients: ClientGradients = field(default_factory=ClientGradients)
    attack: UpdateAttack | OnlineAttack = field(default_factory=UpdateAttack)

    def __post_init__(self) -> None:
        self._values: Tensor | None = None

    def round(self, phase: Phase, trigger: Batch | None = None) -> RoundOutcome:
        """Runs the next round: clients learn from samples of their own, or share those of the trigger."""
        invited = self.pool.draw() if trigger is None else self.pool.draw_with_trigger(trigger)
        result = self.server.step(self.updates(invited, phase))
        return replace(result, record=replace(result.record, phase=phase))

    def updates(self, invited: Cohort, phase: Phase) -> NamedClientUpdates:
        """What the clients of a round send. All rounds share one matrix, which the next one overwrites."""
        view = self.server.learner.view()
        batch, scale = self._poisoned(invited, phase)
        if self._values is None or self._values.shape != (len(invited.counts), self.server.size):
            self._values = empty_updates(view, len(invited.counts))
        values, statistics = self.gradients(view, batch.x, batch.y, invited.counts, self._values)
        if scale != 1:
            values[invited.malicious] *= scale
        weights = torch.tensor(invited.counts, dtype=values.dtype, device=values.device)
        if isinstance(self.attack, UpdateAttack) and bool(invited.malicious.any()):
            knowledge = RoundKnowledge(values, weights, invited.malicious, self.gradients.batch_norm)
            rows = self.attack.poison(knowledge, view, phase)
            if rows is not None:
                values[invited.malicious] = rows
        return NamedClientUpdates(values, weights, clients=invited.clients, statistics=statistics)

    def _poisoned(self, invited: Cohort, phase: Phase) -> tuple[Batch, float]:
        """The samples that clients learn from, and the factor on the attacker's updates."""
        batch = invited.batch
        mine = invited.malicious.repeat_interleave(torch.tensor(invited.counts, device=batch.x.device))
        if not isinstance(self.attack, OnlineAttack) or not bool(mine.any()):
            return batch, 1.0
        own = self.attack.poison(batch.select(mine), self.server.learner.view(), phase)
        x, y = batch.x.clone(), batch.y.clone()
        x[mine], y[mine] = own.x, own.y
        return Batch(x, y), own.loss_weight
