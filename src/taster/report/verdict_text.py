"""The sentence on top of a page: held or broken, by what, by how much, over how many seeds, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from taster.experiments import Recipe
from taster.report.names import class_name
from taster.report.summary import MeanStd
from taster.report.verdict import (
    FEWEST_SEEDS,
    MARGIN,
    SUCCESS_MARGIN,
    DefenceVerdict,
    Estimate,
    Judged,
    Status,
)

Scene = Literal["stream", "federation", "training set"]

_NAMED = 3
"""Up to so many defences are named one by one."""

WORDS: dict[Status, str] = {"held": "Held", "broken": "Broken", "costly": "Costly", "unsettled": "Not settled"}
"""What a status is called."""

_PROTECT = {
    "stream": "put {} around your own training loop, with trusted samples of your own",
    "federation": "use {} on your server",
    "training set": "train behind {}",
}
_DEFEND = {
    "stream": "run it again behind a defence, guard first",
    "federation": "run it again with a robust aggregator or a gate in the place of the mean",
    "training set": "run it again behind defences of training sets",
}
_GIVE_UP = {
    "stream": "do not let the model learn unattended from this source; try more trusted samples, a smaller learning "
    "rate or another defence",
    "federation": "do not take updates from clients you cannot trust yet; try a gate with trusted samples or another "
    "aggregator",
    "training set": "do not train on this source as it is; try another defence, or samples that you have checked",
}


@dataclass(frozen=True)
class Headline:
    """What a page opens with.

    Attributes:
        status: that decides its color.
        word: the status in a word.
        text: the sentence after the word.
    """

    status: Status
    word: str
    text: str

    @property
    def sentence(self) -> str:
        """The whole of it."""
        return f"{self.word}: {self.text}"


def scene_of(recipe: Recipe) -> Scene:
    """What is attacked."""
    if recipe.offline is not None:
        return "training set"
    return "stream" if recipe.federated is None else "federation"


def headline(recipe: Recipe, verdicts: Sequence[DefenceVerdict], undefended: str | None) -> Headline:
    """The first sentence of a page.

    Args:
        recipe: of the run.
        verdicts: of its defences.
        undefended: the label of the defence that defends nothing; None without one.
    """
    scene, writer = scene_of(recipe), _Writer(recipe, undefended)
    alone = next((one for one in verdicts if one.defence == undefended), None)
    defended = [one for one in verdicts if one.defence != undefended]
    if not verdicts:
        return Headline(
            "unsettled",
            WORDS["unsettled"],
            "no attack has a result that can be compared with a run that nobody attacks; next, add an attack and the "
            "control “none” to the recipe.",
        )
    if not defended and alone is not None:
        return _without_defences(writer, alone, scene)
    groups = {status: [one for one in defended if one.status == status] for status in WORDS}
    if groups["held"]:
        return _held(writer, groups, alone, scene)
    if groups["unsettled"]:
        return _unsettled(writer, groups, alone)
    if groups["costly"]:
        return _costly(writer, groups, alone)
    return _broken(writer, defended, alone, scene)


def _without_defences(writer: _Writer, alone: DefenceVerdict, scene: Scene) -> Headline:
    where, over = writer.behind([alone]), _over(alone)
    if alone.status == "broken":
        return _made("broken", f"{where} {writer.harm(alone)}, {over}; next, {_DEFEND[scene]}.")
    if alone.status == "held":
        more = (
            "give the attacks a greater budget until one of them breaks it, as this run cannot say what a defence does"
        )
        return _made("held", f"even {where} {_limits([alone])}, {over}; next, {more}.")
    return _made("unsettled", f"{where} {writer.doubt(alone)}, {over}; next, {_settle([alone])}.")


def _held(
    writer: _Writer, groups: dict[Status, list[DefenceVerdict]], alone: DefenceVerdict | None, scene: Scene
) -> Headline:
    held = groups["held"]
    text = f"{writer.behind(held)} {_limits(held)}, {_over(*held)}"
    if alone is not None and alone.status == "broken":
        text += f", while {writer.behind([alone])} {writer.harm(alone)}"
    elif alone is not None and alone.status == "held":
        text += f", but nor did any {writer.behind([alone])} so that this says nothing of defences"
    others = [one for status in ("broken", "costly", "unsettled") for one in groups[status]]
    for status, said in (("broken", "broken"), ("costly", "too costly"), ("unsettled", "not settled")):
        named = groups[status]  # type: ignore[index]
        if others and named:
            text += f"; {said} behind {writer.names(named)}"
    if alone is not None and alone.status == "held":
        return _made("held", f"{text}; next, give the attacks a greater budget until one of them breaks it.")
    return _made("held", f"{text}; next, {_PROTECT[scene].format(writer.names(held, 'or'))}.")


def _unsettled(writer: _Writer, groups: dict[Status, list[DefenceVerdict]], alone: DefenceVerdict | None) -> Headline:
    doubted = min(groups["unsettled"], key=_uncertainty)
    text = f"{writer.behind([doubted])} {writer.doubt(doubted)}, {_over(doubted)}"
    if alone is not None and alone.status == "broken":
        text += f", while {writer.behind([alone])} {writer.harm(alone)}"
    if groups["broken"]:
        text += f"; broken behind {writer.names(groups['broken'])}"
    return _made("unsettled", f"{text}; next, {_settle([doubted])}.")


def _costly(writer: _Writer, groups: dict[Status, list[DefenceVerdict]], alone: DefenceVerdict | None) -> Headline:
    least = min(groups["costly"], key=lambda one: one.price.mean if one.price is not None else math.inf)
    price = "" if least.price is None else f"{_points(least.price)} of accuracy with nobody attacking"
    text = (
        f"{writer.behind([least])} no attack surely added {MARGIN:g} points to what the defence itself costs, {price}"
    )
    text += f", {_over(least)}"
    if alone is not None and alone.status == "broken":
        text += f", while {writer.behind([alone])} {writer.harm(alone)}"
    if groups["broken"]:
        text += f"; broken behind {writer.names(groups['broken'])}"
    return _made("costly", f"{text}; next, look for a defence that costs less.")


def _broken(
    writer: _Writer, defended: Sequence[DefenceVerdict], alone: DefenceVerdict | None, scene: Scene
) -> Headline:
    best = min(defended, key=_uncertainty)
    each = "" if len(defended) == 1 else f"behind each of {len(defended)} defences; even "
    text = f"{each}{writer.behind([best])} {writer.harm(best)}, {_over(best)}"
    if alone is not None and alone.status == "broken":
        text += f" ({writer.behind([alone])} {writer.harm(alone)})"
    elif alone is not None:
        text += f", which is {WORDS[alone.status].lower()} {writer.behind([alone]).rstrip(',')}"
    return _made("broken", f"{text}; next, {_GIVE_UP[scene]}.")


def _made(status: Status, text: str) -> Headline:
    return Headline(status, WORDS[status], text)


@dataclass(frozen=True)
class _Writer:
    """Says what came of a recipe's attacks and defences, by their labels and by names of the user's own classes."""

    recipe: Recipe
    undefended: str | None

    def names(self, verdicts: Sequence[DefenceVerdict], join: str = "and") -> str:
        labels = [f"“{one.defence}”" if set(one.defence) & set(" ,;") else one.defence for one in verdicts]
        if len(labels) > _NAMED:
            labels = [*labels[:_NAMED], f"{len(labels) - _NAMED} more"]
        return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} {join} {labels[-1]}"

    def behind(self, verdicts: Sequence[DefenceVerdict]) -> str:
        if [one.defence for one in verdicts] == [self.undefended]:
            entry = next(entry for entry in self.recipe.defence if entry.label == self.undefended)
            return "with no defence," if entry.name == "none" else f"with the plain {entry.name},"
        return f"behind {self.names(verdicts)},"

    def harm(self, verdict: DefenceVerdict) -> str:
        """What broke it."""
        return self._did(verdict.worst_loss("broken"), verdict.worst_success("broken"))

    def doubt(self, verdict: DefenceVerdict) -> str:
        """What leaves it open."""
        loss, success = verdict.deciding_loss(), verdict.deciding_success()
        if verdict.seeds < FEWEST_SEEDS:
            return self._did(loss, success)
        said = []
        if loss is not None and loss[1].status(MARGIN) == "unsettled":
            said.append(f"“{loss[0].attack}” {_doubtful_loss(loss[1])}")
        if success is not None and success[1].status(SUCCESS_MARGIN) == "unsettled":
            one, share = success
            said.append(
                f"“{one.attack}” {self._did_to_its_own(one, share)}, but up to {share.upper:.0f} % are not "
                f"ruled out ({SUCCESS_MARGIN:g} % count as held)"
            )
        return " and ".join(said) if said else "some of the results are missing"

    def _did(self, loss: tuple[Judged, Estimate] | None, success: tuple[Judged, Estimate] | None) -> str:
        """What the worst attacks did to accuracy, and to inputs of their own."""
        said = [] if loss is None else [f"“{loss[0].attack}” cost {_points(loss[1])} of accuracy"]
        if success is not None:
            who = "" if loss is not None and loss[0] is success[0] else f"“{success[0].attack}” "
            said.append(f"{who}{self._did_to_its_own(*success)}")
        return " and ".join(said)

    def _did_to_its_own(self, one: Judged, success: Estimate) -> str:
        """What an attack did to inputs of its own."""
        if success.hits is not None:
            return f"hit {success.hits.successes} of {success.hits.trials} targets"
        share = f"{max(0.0, success.mean):.0f} %"
        target = self._target(one.attack)
        if target is None:
            return f"got {share} of its own inputs to be answered as it wants"
        return f"turned {share} of the samples that bear its trigger into {target}"

    def _target(self, attack: str) -> str | None:
        """The class that a backdoor leads to, by the user's name for it; None where the attack has no such setting."""
        entry = next(entry for entry in self.recipe.attack if entry.label == attack)
        number = entry.settings.get("target_class")
        return class_name(self.recipe, number) if isinstance(number, int) else None


def _doubtful_loss(loss: Estimate) -> str:
    if loss.mean > MARGIN:
        return f"cost {_points(loss)} of accuracy, too uncertain to tell from the {MARGIN:g} that count as held"
    cost = f"{_points(loss)} of accuracy" if loss.mean > 0 else "nothing on average"
    return f"cost {cost}, but up to {loss.upper:.1f} points are not ruled out ({MARGIN:g} count as held)"


def _points(value: Estimate) -> str:
    """Mean and deviation in points."""
    return f"{MeanStd(value.mean, value.deviation).text()} points"


def _over(*verdicts: DefenceVerdict) -> str:
    seeds = min(one.seeds for one in verdicts)
    if seeds == 1:
        return "in the one seed there is"
    return f"over {seeds} seeds"


def _limits(held: Sequence[DefenceVerdict]) -> str:
    """What attacks cost at most behind defences that held."""
    losses = [one.loss.upper for verdict in held for one in verdict.attacks if one.loss is not None]
    successes = [one.success.upper for verdict in held for one in verdict.attacks if one.success is not None]
    most = max(losses)
    said = "no attack cost any accuracy" if most <= 0 else f"no attack cost more than {most:.1f} points of accuracy"
    return said + (f" or succeeded in more than {max(successes):.0f} % of its cases" if successes else "")


def _uncertainty(verdict: DefenceVerdict) -> tuple[float, float]:
    """By what the best of several defences is chosen: success, then loss."""
    loss, success = verdict.worst_loss(), verdict.worst_success()
    return (
        0.0 if success is None else max(0.0, success[1].mean - SUCCESS_MARGIN),
        math.inf if loss is None else loss[1].mean,
    )


def _settle(verdicts: Sequence[DefenceVerdict]) -> str:
    """How an open question is closed."""
    open_ones = [one for verdict in verdicts for one in verdict.attacks if one.status == "unsettled"]
    if any(not one.complete for one in open_ones):
        return "finish the run (taster run --resume), as some of its results are missing"
    if min(verdict.seeds for verdict in verdicts) < FEWEST_SEEDS:
        return f"run at least {FEWEST_SEEDS} seeds (--set seeds={FEWEST_SEEDS}) before you claim anything"
    if any(one.success is not None and one.success.hits is not None for one in open_ones):
        return "run more seeds or more targets"
    wanted: list[int | None] = []
    for one in open_ones:
        for value, margin in ((one.loss, MARGIN), (one.success, SUCCESS_MARGIN)):
            if value is not None and value.status(margin) == "unsettled":
                wanted.append(value.seeds_to_settle(margin))
    if not wanted or None in wanted:
        return "run it on more test samples and many more seeds, as it lies too close to call"
    most = max(n for n in wanted if n is not None)
    return f"run about {most} seeds (--set seeds={most}), which would settle it if they come out as these did"
