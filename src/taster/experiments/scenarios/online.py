"""One cell of the grid: one attack against one defence with one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from taster.attacks import OnlineAttack, GuardSimulator
from taster.attacks.online_attack import poison_mask
from taster.core.learner import Learner
from taster.core.types import Batch, Phase
from taster.data import Augment, Images, ImageSet, Role, Stream, as_batch
from taster.experiments.recipes.schema import Defence, Entry, Recipe
from taster.experiments.run_directory import CellDirectory
from taster.experiments.scenarios.build_online import (
    make_campaign,
    make_learner,
    make_schedule,
    make_score,
    make_surrogates,
    stream_rate,
)
from taster.experiments.scenarios.cell_trace import CellTrace, step_cost
from taster.experiments.scenarios.crafting_replay import frames, summarize_replay, replay
from taster.experiments.scenarios.score_tracker import ScoreTracker
from taster.experiments.user_code import user_code
from taster.scores.base import split_in_half
from taster.utils.seeds import derived_seed, generator

_SHOWN = 6
"""Samples kept for the page's pictures."""


def run_cell(
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
) -> None:
    """Runs the cell from its burnt-in state to one step after the trigger, and leaves its files in `out`."""
    batches = {role: as_batch(images).to(device) for role, images in roles.items() if role not in ("burn_in", "stream")}
    learner = make_learner(recipe, data, burnt_in, defence, batches["probe"], seed, device)
    rehearsal = None
    if "simulator" in recipe.factory("attack", attack).needs:
        known, held_out = split_in_half(batches["validation"])
        copy = make_learner(recipe, data, burnt_in, defence, known, seed, device, "rehearsal")
        rehearsal = GuardSimulator(copy, held_out)
    surrogates = make_surrogates(recipe, data, burnt_in, seed, device)
    campaign = make_campaign(recipe, roles, batches["trigger"], attack, seed, surrogates, rehearsal)
    measures = ScoreTracker({entry: make_score(recipe, entry, batches["probe"]) for entry in recipe.score})
    schedule = make_schedule(recipe.schedule, harmless=campaign.accumulate is None and campaign.trigger is None)
    section = recipe.stream
    stream = Stream(
        roles["stream"].to(device), section.batch_size, generator(seed, "stream"), Augment(section.crop, section.flip)
    )

    def accuracy(role: Role) -> float:
        return learner.view().accuracy(batches[role].x, batches[role].y)

    # One seed for all attacks and defences: where nothing else differs, dropout does not either.
    torch.manual_seed(derived_seed(seed, "dropout"))
    out.begin()
    whose = {"attack": attack.label, "defence": defence.label, "seed": seed}
    course = CellTrace(accuracy, schedule, recipe.compute.eval_every)
    pictures: dict[str, Tensor] = {}
    formed: dict[str, Any] | None = None
    phase = Phase.DORMANT
    while phase is not Phase.TRIGGER:
        phase = course.next_phase()
        clean = batches["trigger"] if phase is Phase.TRIGGER else stream.draw()
        with user_code(defence):
            if rehearsal is not None:
                rehearsal.sync(learner, course.records[-1] if course.records else None)
            with user_code(attack):
                poisoned = campaign.poison(clean, learner.view(), phase)
        if phase is Phase.TRIGGER and campaign.trace is not None and campaign.trace.batches:
            formed = replay(campaign.trace, learner.view(), stream_rate(recipe), batches["test"])
            pictures["forming"] = frames(campaign.trace, clean)
        scores = measures.take(phase, clean, poisoned, learner.view())
        with user_code(defence), weight_momentum(learner, campaign, phase):
            record = replace(learner.step(poisoned), phase=phase)
        measures.observe(record, learner.view())
        out.append(
            {
                **whose,
                **record.to_dict(),
                "poisoned": int(poison_mask(poisoned, clean).sum()),
                "derivatives": None if campaign.derivatives is None else campaign.derivatives.describe(),
                **course.take(record),
                **({"scores": scores} if scores else {}),
            }
        )
        if phase is not Phase.DORMANT and phase.value not in pictures:
            pictures |= _pictures(phase.value, clean, poisoned)
        on_step()
    row = {
        **whose,
        **course.row(learner.guard),
        "cost": step_cost(course.records),
        **({"scores": measures.summary()} if recipe.score else {}),
        **({} if formed is None else {"forming": summarize_replay(formed)}),
    }
    out.finish({"row": row, **course.monitored(), "forming": formed}, pictures, measures.values())


@contextmanager
def weight_momentum(learner: Learner, campaign: OnlineAttack, phase: Phase) -> Iterator[None]:
    """The momentum that the attack brings about while its accumulative phase lasts."""
    if campaign.weight_momentum is None or phase is not Phase.ACCUMULATE:
        yield
        return
    groups = learner.optimizer.param_groups
    own = [group["momentum"] for group in groups]
    for group in groups:
        group["momentum"] = campaign.weight_momentum
    try:
        yield
    finally:
        for group, momentum in zip(groups, own, strict=True):
            group["momentum"] = momentum


def _pictures(phase: str, clean: Batch, poisoned: Batch) -> dict[str, Tensor]:
    """A few samples before and after, the changed ones first."""
    order = torch.argsort(poison_mask(poisoned, clean).int(), descending=True, stable=True)[:_SHOWN]
    return {phase: torch.stack([clean.x[order], poisoned.x[order]]).cpu()}
