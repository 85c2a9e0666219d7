"""The online scenario: a stream of batches, each poisoned before the learner steps on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from taster.attacks import GuardSimulator, OnlineAttack
from taster.attacks.online_attack import poison_mask
from taster.core.batch import Batch
from taster.core.learner import Learner
from taster.core.step_record import Phase, StepRecord
from taster.data import Augment, Stream
from taster.defences.training.temporal_stream import WindowEnsemble
from taster.errors import RecipeError
from taster.experiments.recipes.schema import Entry
from taster.experiments.results import CraftingCourse
from taster.experiments.scenarios.builders import (
    check_budget,
    check_guard,
    make_attack,
    make_guard,
    make_learner,
    make_score,
    make_stream_defence,
    make_surrogates,
    stream_learning_rate,
)
from taster.experiments.scenarios.burn_in import build_model
from taster.experiments.scenarios.cell_trace import step_cost
from taster.experiments.scenarios.context import CellContext, SeedContext
from taster.experiments.scenarios.crafting_replay import frames, replay, summarize_replay
from taster.experiments.scenarios.scenario import ScenarioResult, ScenarioStep
from taster.experiments.scenarios.score_tracker import ScoreTracker
from taster.experiments.user_code import user_code
from taster.scores.base import split_in_half
from taster.utils.seeds import generator

_SHOWN = 6
"""Samples kept for the page's pictures."""


class Online:
    """One cell of an online recipe."""

    def __init__(self, context: CellContext) -> None:
        recipe, burnt_in, batches = context.recipe, context.burnt_in, context.batches
        self._context = context
        guard, windows = make_stream_defence(context, context.defence, batches["probe"])
        self.learner: Learner = make_learner(context, burnt_in, guard)
        self._windows = None if windows is None else windows.start(context.data.classes)
        self._simulator = _make_simulator(context)
        surrogates = make_surrogates(context, burnt_in)
        self._attack = _make_online_attack(context, context.attack, surrogates, self._simulator)
        self._scores = ScoreTracker({entry: make_score(context, entry) for entry in recipe.score})
        self._stream = Stream(
            context.roles["stream"].to(context.device),
            recipe.stream.batch_size,
            generator(context.seed, "stream"),
            Augment(recipe.stream.crop, recipe.stream.flip),
        )
        self._images: dict[str, Tensor] = {}
        self._success_at_start = self._success_rate()
        self._crafting: CraftingCourse | None = None

    @property
    def attacks(self) -> bool:
        """Whether anybody attacks."""
        return self._attack.accumulate is not None or self._attack.trigger is not None

    def accuracy(self, samples: Batch, /) -> float:
        """Accuracy of the vote, where there is one and a net that votes, else of the learner."""
        if self._windows:
            return self._windows.accuracy(samples.x, samples.y)
        return self.learner.view().accuracy(samples.x, samples.y)

    def describe_derivatives(self) -> str | None:
        """How the attack has differentiated so far; None if it does not."""
        derivatives = self._attack.derivatives
        return None if derivatives is None else derivatives.describe()

    def step(self, phase: Phase, last: StepRecord | None, /) -> ScenarioStep:
        """Draws a batch, or takes the trigger's, has it poisoned, and steps on it."""
        clean = self._context.batches["trigger"] if phase is Phase.TRIGGER else self._stream.draw()
        batch = self._poison(clean, phase, last)
        if phase is Phase.TRIGGER:
            self._replay_crafting(clean)
        scores = self._scores.take(phase, clean, batch, self.learner.view())
        with (
            user_code(self._context.defence, self._context.recipe.model),
            weight_momentum(self.learner, self._attack, phase),
        ):
            record = replace(self.learner.step(batch), phase=phase)
            if self._windows is not None:
                self._windows.learn(batch)
        self._scores.observe(record, self.learner.view())
        if phase is not Phase.DORMANT and phase.value not in self._images and clean.x.dim() == 4:
            self._images[phase.value] = _examples(clean, batch)
        return ScenarioStep(record, int(poison_mask(batch, clean).sum()), {"scores": scores} if scores else {})

    def result(self, records: list[StepRecord], /) -> ScenarioResult:
        """The cost of the defence, and scores, crafting and the success of a backdoor if there are any."""
        columns: dict[str, Any] = {"cost": step_cost(records)}
        if self._context.recipe.score:
            columns["scores"] = self._scores.summary()
        if self._success_at_start is not None:
            columns["asr_start"], columns["asr"] = self._success_at_start, self._success_rate()
        if self._windows is not None:
            columns["certified"] = self._certified(self._windows, records)
        if self._crafting is not None:
            columns["forming"] = summarize_replay(self._crafting)
        return ScenarioResult(columns, self._crafting, self._images, self._scores.values())

    @classmethod
    def dry_run(cls, context: SeedContext) -> None:
        """Makes every attack and defence once.

        Raises:
            RecipeError: if the stream is smaller than a batch, or an attack or defence cannot be made.
        """
        recipe, left = context.recipe, len(context.roles["stream"])
        if recipe.stream.batch_size > left:
            raise RecipeError(
                f"stream.batch_size: got {recipe.stream.batch_size}, wanted at most the {left} samples that are left "
                "for the stream"
            )
        model = build_model(recipe, context.data, context.seed, context.device)
        for defence in recipe.defence:
            guard, windows = make_stream_defence(context, defence, context.batches["probe"])
            check_guard(context, model, defence, guard)
            if windows is not None and windows.periods > recipe.schedule.dormant:
                raise RecipeError(
                    f"schedule.dormant: got {recipe.schedule.dormant}, wanted at least the {windows.periods} steps "
                    f"before {windows.models} models of {windows.coverage} steps each are there (defence "
                    f"{defence.label})"
                )
        for attack in recipe.attack:
            check_budget(attack, _make_online_attack(context, attack), context.batches["trigger"])

    def _certified(self, windows: WindowEnsemble, records: list[StepRecord]) -> dict[str, float]:
        """The accuracy that is certified against poison of so many steps on end: as many as the attack took, and up to
        twice as many."""
        test, lasted = self._context.batches["test"], sum(r.phase is not Phase.DORMANT for r in records)
        durations = sorted({0, lasted, *(round(lasted * i / 4) for i in range(9))})
        return {str(d): left for d, left in windows.certified_accuracy(test.x, test.y, durations).items()}

    def _poison(self, clean: Batch, phase: Phase, last: StepRecord | None) -> Batch:
        defence, model = self._context.defence, self._context.recipe.model
        if self._simulator is not None:
            with user_code(defence, model):
                self._simulator.sync(self.learner, last)
        with user_code(self._context.attack, defence, model):
            return self._attack.poison(clean, self.learner.view(), phase)

    def _success_rate(self) -> float | None:
        """The attack success rate on the test split at present, in %; None without a backdoor."""
        if self._attack.backdoor is None:
            return None
        with user_code(self._context.attack, self._context.recipe.model):
            return self._attack.backdoor.success_rate(self.learner.view(), self._context.batches["test"])

    def _replay_crafting(self, clean: Batch) -> None:
        trace = self._attack.trace
        if trace is not None and trace.batches:
            rate = stream_learning_rate(self._context.recipe)
            self._crafting = replay(trace, self.learner.view(), rate, self._context.batches["test"])
            self._images["forming"] = frames(trace, clean)


@contextmanager
def weight_momentum(learner: Learner, attack: OnlineAttack, phase: Phase) -> Iterator[None]:
    """Sets the learner's momentum to what the attack brings about while its accumulative phase lasts."""
    if attack.weight_momentum is None or phase is not Phase.ACCUMULATE:
        yield
        return
    groups = learner.optimizer.param_groups
    own = [group["momentum"] for group in groups]
    for group in groups:
        group["momentum"] = attack.weight_momentum
    try:
        yield
    finally:
        for group, before in zip(groups, own, strict=True):
            group["momentum"] = before


def _make_online_attack(
    context: SeedContext, attack: Entry, surrogates: Any = None, simulator: GuardSimulator | None = None
) -> OnlineAttack:
    made = make_attack(context, attack, surrogates, simulator)
    if not isinstance(made, OnlineAttack):
        raise RecipeError(
            f"attack {attack.label}: {attack.name} returned {type(made).__name__}, wanted an OnlineAttack"
        )
    return made.within(*context.data.value_range)


def _make_simulator(context: CellContext) -> GuardSimulator | None:
    """The attacker's copy of the guarded learner, with half of the validation samples in place of the probe."""
    if "simulator" not in context.recipe.factory("attack", context.attack).needs:
        return None
    known, held_out = split_in_half(context.batches["validation"])
    guard = make_guard(context, context.defence, known, "rehearsal")
    return GuardSimulator(make_learner(context, context.burnt_in, guard), held_out)


def _examples(clean: Batch, poisoned: Batch) -> Tensor:
    """A few samples before and after, the changed ones first, [2, k, ...]."""
    order = torch.argsort(poison_mask(poisoned, clean).int(), descending=True, stable=True)[:_SHOWN]
    return torch.stack([clean.x[order], poisoned.x[order]]).cpu()
