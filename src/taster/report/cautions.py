"""What a reader must know before he believes a page: seeds that are few, phases that never began, cells that failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from taster.attacks import ATTACKS, UPDATE_ATTACKS
from taster.core.step_record import Phase
from taster.core.threat import threat_of
from taster.experiments.recipes.schema import Entry
from taster.report.verdict import FEWEST_SEEDS, MARGIN, SUCCESS_MARGIN, Estimate

if TYPE_CHECKING:
    from taster.report.data import ReportData

_NUMBERS = ("No seed", "One seed", "Two seeds")
_NOISE = ("random_noise", "gaussian_updates", "random_class_noise")
"""Attacks that are noise of an attack's size."""


def cautions(data: ReportData) -> list[str]:
    """A sentence for each thing to mind; none for a run that is as it should be."""
    found = [*_few_seeds(data), *_failed(data), *nothing_moved(data)]
    if data.recipe.offline is not None:
        return [*found, *_untouched_sets(data)]
    return [*found, *_phases(data), *_idle(data), *_falls_by_itself(data), *_no_more_than_noise(data)]


def _few_seeds(data: ReportData) -> Iterator[str]:
    seeds = len({row["seed"] for row in data.rows})
    if seeds < FEWEST_SEEDS:
        yield f"{_NUMBERS[seeds]} alone: no effect should be claimed from fewer than three seeds."


def _failed(data: ReportData) -> Iterator[str]:
    if data.failed:
        failed = len(data.failed)
        cells = "One cell" if failed == 1 else f"{failed} cells"
        yield f"{cells} of {data.expected_rows} failed; “What failed” says why."


def nothing_moved(data: ReportData) -> Iterator[str]:
    """Where no attack does any harm with no defence, nothing is learned of the defences, nor of attacks that are
    stronger."""
    noise = _noise(data)
    alone = next((verdict for verdict in data.verdicts if verdict.defence == data.undefended), None)
    judged = [] if alone is None else [one for one in alone.attacks if one.attack not in noise and one.parts]
    losses = [one.loss.mean for one in judged if one.loss is not None]
    successes = [one.success.mean for one in judged if one.success is not None]
    if judged and max(losses, default=0.0) <= MARGIN and max(successes, default=0.0) <= SUCCESS_MARGIN:
        stronger = (
            "train for more epochs, or poison more of the set (poison_fraction)"
            if data.recipe.offline is not None
            else "more steps (schedule.steps), a greater epsilon or a greater learning rate"
        )
        yield (
            f"No attack moved anything: with no defence none cost more than {MARGIN:g} points on average, so that this "
            f"run neither shows that the model is safe nor what a defence is worth. What makes attacks stronger: "
            f"{stronger}."
        )


def _noise(data: ReportData) -> set[str]:
    """The labels of the attacks that are noise."""
    return {entry.label for entry in data.recipe.attack if entry.name in _NOISE}


def _untouched_sets(data: ReportData) -> Iterator[str]:
    for attack in data.attacks:
        own = [row for row in data.rows if row["attack"] == attack]
        if attack != data.honest and own and not any(row["poisoned"] for row in own):
            yield f"“{attack}” changed no sample of the training set: it is a control, and not judged."


def _phases(data: ReportData) -> Iterator[str]:
    """Attacks that struck at once."""
    schedule = data.recipe.schedule
    floor = None if schedule.accuracy_floor is None else schedule.accuracy_floor + schedule.margin
    for attack in data.attacks:
        own = [row for row in data.rows if row["attack"] == attack]
        at_once = [row for row in own if row["steps"] == 0]
        if not at_once:
            continue
        how_often = f"in {len(at_once)} of {len(own)} runs the accumulation of “{attack}” never began"
        if floor is not None and all(row["stopped_by"] == "accuracy_floor" for row in at_once):
            start = max(row["acc_start"] for row in at_once)
            yield (
                f"The floor cannot be met: {how_often}, as the monitored accuracy lay under {floor:g} % (floor and "
                f"margin) from the first step on; on test samples it was {start:.1f} % at most. Lower "
                "schedule.accuracy_floor, or train longer before the stream."
            )
        else:
            yield f"{how_often[0].upper()}{how_often[1:]}."


def _idle(data: ReportData) -> Iterator[str]:
    """Attacks that changed nothing where they were to."""
    idle = {(one.attack, one.phase) for one in data.details.idle}
    for entry in data.recipe.attack:
        prepared, struck = ((entry.label, phase.value) not in idle for phase in (Phase.ACCUMULATE, Phase.TRIGGER))
        if entry.label == data.honest or not idle or (prepared and struck):
            continue
        if not prepared and not struck:
            yield f"“{entry.label}” changed nothing at all: what it is said to have done is chance."
        elif _acts_twice(entry) and not prepared:
            yield f"The accumulation of “{entry.label}” never began: it changed nothing before its trigger."
        elif _acts_twice(entry) and entry.settings.get("trigger_batch") != "clean":
            yield f"The trigger of “{entry.label}” was never struck: its last batch was clean."


def _acts_twice(entry: Entry) -> bool:
    """Whether the attack is one that prepares the model and then strikes."""
    function = {**ATTACKS, **UPDATE_ATTACKS}.get(entry.name)
    threat = None if function is None else threat_of(function)
    return threat is not None and threat.timing == "accumulative then trigger"


def _falls_by_itself(data: ReportData) -> Iterator[str]:
    own = [r for r in data.rows if r["attack"] == data.honest and r["defence"] == data.undefended]
    if own:
        fall = Estimate.of_seeds([row["acc_start"] - row["acc_after"] for row in own])
        if fall.mean > MARGIN:
            yield (
                f"With nobody attacking and no defence accuracy fell by {fall.mean:.1f} points over the run by itself; "
                "losses are counted from its end, and a defence that stops this too can gain."
            )


def _no_more_than_noise(data: ReportData) -> Iterator[str]:
    """Where noise of the same size does as much, the craft of an attack did nothing."""
    noise = _noise(data)
    for verdict in data.verdicts:
        worst = verdict.worst_loss("broken")
        losses = [one.loss for one in verdict.attacks if one.attack in noise and one.loss is not None]
        if worst is None or not losses or worst[0].attack in noise:
            continue
        most = max(losses, key=lambda loss: loss.mean)
        if worst[1].lower <= most.upper:
            yield (
                f"Behind {verdict.defence} the loss by “{worst[0].attack}” cannot be told from that by noise of its "
                f"size, {most.mean:.1f} points: their intervals overlap."
            )
