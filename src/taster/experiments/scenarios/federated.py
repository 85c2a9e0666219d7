"""One cell of a federated recipe's grid: one attack against one defence with one seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from taster.core.types import Phase
from taster.data import Images, ImageSet, Role, as_batch
from taster.experiments.recipes.schema import Defence, Entry, Recipe
from taster.experiments.run_directory import CellDirectory
from taster.experiments.scenarios.build_federated import (
    make_clients_attack,
    make_gradients,
    make_population,
    make_server,
)
from taster.experiments.scenarios.build_online import make_schedule, make_surrogates
from taster.experiments.scenarios.cell_trace import CellTrace
from taster.experiments.user_code import user_code
from taster.federated import Simulation
from taster.utils.seeds import derived_seed


def run_federated_cell(
    recipe: Recipe,
    data: ImageSet,
    roles: dict[Role, Images],
    burnt_in: dict[str, Any],
    attack: Entry,
    defence: Defence,
    seed: int,
    device: torch.device,
    out: CellDirectory,
    on_step: Callable[[], None] = lambda: None,
    simulation_of: Callable[..., Simulation] = Simulation,
) -> None:
    """Runs the cell from its burnt-in state to the round of the trigger, and leaves its files in `out`.

    The row is that of an online cell, without a cost; `dropped_clients` besides is how many were dropped before the
    screens.
    """
    batches = {role: as_batch(images).to(device) for role, images in roles.items() if role not in ("burn_in", "stream")}
    server = make_server(recipe, data, burnt_in, defence, batches["probe"], seed, device)
    surrogates = make_surrogates(recipe, data, burnt_in, seed, device)
    campaign = make_clients_attack(recipe, roles, batches["trigger"], attack, seed, surrogates)
    population = make_population(recipe, roles["stream"].to(device), seed)
    simulation = simulation_of(server, population, make_gradients(recipe), campaign)
    schedule = make_schedule(recipe.schedule, harmless=campaign.accumulate is None and campaign.trigger is None)
    learner = server.learner

    def accuracy(role: Role) -> float:
        return learner.view().accuracy(batches[role].x, batches[role].y)

    torch.manual_seed(derived_seed(seed, "dropout"))
    out.begin()
    whose = {"attack": attack.label, "defence": defence.label, "seed": seed}
    course = CellTrace(accuracy, schedule, recipe.compute.eval_every)
    dropped = 0
    phase = Phase.DORMANT
    while phase is not Phase.TRIGGER:
        phase = course.next_phase()
        with user_code(defence), user_code(attack):
            result = simulation.round(phase, batches["trigger"] if phase is Phase.TRIGGER else None)
        dropped += len(result.rejected_clients)
        out.append(
            {
                **whose,
                **result.record.to_dict(),
                "poisoned": _poisoned(simulation, phase),
                "derivatives": None if campaign.derivatives is None else campaign.derivatives.describe(),
                **course.take(result.record),
                "clients_dropped": dict(result.rejected_clients),
            }
        )
        on_step()
    row = {
        **whose,
        **course.row(learner.guard),
        "cost": None,  # of a step alone it would leave out what clients compute, and count the rule as plain
        "dropped_clients": dropped,
    }
    out.finish({"row": row, **course.monitored()}, None)


def _poisoned(simulation: Simulation, phase: Phase) -> int:
    """How many clients of the round sent, or learned from, something else than an honest one would."""
    campaign = simulation.attack
    acts = {Phase.ACCUMULATE: campaign.accumulate, Phase.TRIGGER: campaign.trigger}.get(phase)
    return simulation.pool.num_malicious if acts is not None else 0
