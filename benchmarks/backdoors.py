"""Backdoors on a stream: what defences leave of them, and what they do to honest samples; one model, one seed a run.

    python benchmarks/backdoors.py --data MNIST --attacks patch none --screens none backdoor_screen --seed 0

Prints a line of JSON for each attack and defence: accuracy and attack success rate in % on the split (the monitor split
unless asked for the test split), recall and precision of what was dropped, and the share of honest samples dropped,
in %.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import taster
from taster import Batch, Guard, Phase, ScreenedBatch, StepRecord, View
from taster.attacks.online_attack import poison_mask
from taster.data import Stream
from taster.defences import backdoor_screen, clipping
from taster.defences.screens.score_screen import ScoreScreen
from taster.experiments import parse_recipe, read_recipe
from taster.experiments.recipes.schema import Entry
from taster.experiments.running.tasks import seed_context
from taster.experiments.scenarios.builders import make_attack, make_learner
from taster.experiments.scenarios.burn_in import burn_in
from taster.experiments.scenarios.burn_in_cache import cached_burn_in
from taster.experiments.scenarios.context import SeedContext
from taster.scores.base import Score
from taster.scores.registry import (
    activation_clustering,
    loss,
    loss_isolation,
    perturbation_consistency,
    spectral_signature,
)
from taster.scores.thresholds import QuantileThreshold
from taster.utils.logging import suppress_log_messages
from taster.utils.seeds import generator

ATTACKS: dict[str, dict[str, Any]] = {
    "none": {"name": "none"},
    "patch": {"name": "patch_backdoor"},
    "blended": {"name": "blended_backdoor"},
    "clean_label": {"name": "clean_label_backdoor", "epsilon": 0.3},
    "patch_2": {"name": "patch_backdoor", "poison_fraction": 0.02},
    "patch_1": {"name": "patch_backdoor", "poison_fraction": 0.01},
    "adaptive_blend": {"name": "adaptive_blend"},
}
_WINDOW = 10


class Windowed:
    """A score of features beside those of the last steps' samples, all by the present model."""

    def __init__(self, score: Score) -> None:
        self._score = score
        self._past: list[Batch] = []
        self._now: Batch | None = None

    def __call__(self, batch: Batch, view: View) -> Tensor:
        self._now = batch
        parts = [*self._past, batch]
        together = Batch(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))
        return self._score(together, view)[-len(batch) :]

    def advance(self) -> None:
        if self._now is not None:
            self._past = [*self._past, self._now][1 - _WINDOW :]


def by_score(score: Score, probe: Batch, *, windowed: bool = False) -> tuple[Guard, Callable[[], None]]:
    """A screen that drops above the 99 % quantile of the probe, and what is to be called after a step."""
    window = Windowed(score) if windowed else None
    screen = ScoreScreen("candidate", window or score, QuantileThreshold(score, probe, 0.99))
    return Guard(screens=[screen]), window.advance if window else lambda: None


SCREENS: dict[str, Callable[[Batch], tuple[Guard, Callable[[], None]]]] = {
    "none": lambda _: (Guard(), lambda: None),
    "clipping": lambda _: (clipping(), lambda: None),
    "guard": lambda probe: (taster.guard(probe), lambda: None),
    "backdoor_screen+guard": lambda probe: (backdoor_screen(probe) + taster.guard(probe), lambda: None),
    "loss": lambda probe: by_score(loss(), probe),
    "loss_isolation": lambda probe: by_score(loss_isolation(), probe),
    "spectral_signature": lambda probe: by_score(spectral_signature(), probe, windowed=True),
    "activation_clustering": lambda probe: by_score(activation_clustering(), probe, windowed=True),
    "perturbation_consistency": lambda probe: by_score(perturbation_consistency(probe), probe),
    "limits_alone": lambda probe: (backdoor_screen(probe, quantile=1.0), lambda: None),
    "quantile_alone": lambda probe: (backdoor_screen(probe, alpha=1e-300), lambda: None),
    "backdoor_screen": lambda probe: (backdoor_screen(probe), lambda: None),
}


class Counting:
    """A screen that counts what another drops: poisoned, honest."""

    name = "counting"

    def __init__(self, screen: Any) -> None:
        self.screen = screen
        self.poisoned = torch.zeros(0, dtype=torch.bool)
        self.dropped = [0, 0]

    def __call__(self, admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        # Each sample carries its place as a weight, so that those that are left can be told.
        batch, places = admitted.batch, torch.arange(len(admitted.batch), dtype=torch.float32)
        left = self.screen(ScreenedBatch(batch, weights=places), view)
        gone = torch.ones(len(batch), dtype=torch.bool)
        if not left.empty:
            gone[left.weights.long()] = False
        self.dropped[0] += int((gone & self.poisoned).sum())
        self.dropped[1] += int((gone & ~self.poisoned).sum())
        return admitted.drop(gone, "all") if bool(gone.any()) else admitted

    def observe(self, record: StepRecord, view: View) -> None:
        self.screen.observe(record, view)

    def state_dict(self) -> dict[str, Any]:
        return self.screen.state_dict()  # type: ignore[no-any-return]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.screen.load_state_dict(state)


def measure(context: SeedContext, burnt_in: Any, attack: str, screen: str, steps: int, split: str) -> dict[str, Any]:
    """One stream."""
    torch.manual_seed(context.seed)
    made = make_attack(context, Entry.model_validate({**ATTACKS[attack], "label": attack}))
    # Of a stream that nobody attacks, the success of the patch is measured.
    planted = made.backdoor or make_attack(context, Entry(name="patch_backdoor", label="patch")).backdoor
    guard, advance = SCREENS[screen](context.batches["probe"])
    counting = [Counting(stage) for stage in guard.screens]
    others = (guard.transforms, guard.gates, guard.salvage)
    learner = make_learner(context, burnt_in, Guard(tuple(counting), *others))
    size = context.recipe.stream.batch_size
    stream = Stream(context.images("stream"), size, generator(context.seed, "stream"))
    test = context.batches[split]  # type: ignore[index]
    before, began, poison = planted.success_rate(learner.view(), test), time.process_time(), 0
    for _ in range(steps):
        clean = stream.draw()
        fed = made.poison(clean, learner.view(), Phase.ACCUMULATE)
        mask = poison_mask(fed, clean)
        poison += int(mask.sum())
        for stage in counting:
            stage.poisoned = mask
        learner.step(fed)
        advance()
    caught, lost = counting[0].dropped if counting else (0, 0)
    return {
        "attack": attack,
        "screen": screen,
        "seed": context.seed,
        "steps": steps,
        "accuracy": learner.view().accuracy(test.x, test.y),
        "asr_start": before,
        "asr": planted.success_rate(learner.view(), test),
        "recall": 100 * caught / poison if poison else None,
        "precision": 100 * caught / (caught + lost) if caught + lost else None,
        "honest_dropped": 100 * lost / (steps * size - poison),
        "seconds": time.process_time() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="backdoor-mnist")
    parser.add_argument("--set", nargs="*", default=[], help="changes of the recipe")
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--screens", nargs="+", default=list(SCREENS), choices=list(SCREENS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--split", default="monitor", choices=["monitor", "test"])
    parser.add_argument("--monitor", type=int, default=1000, help="size of the monitor split")
    options = parser.parse_args()
    torch.set_num_threads(1)
    changes = [f"data.source={options.data}", f"split.monitor={options.monitor}", *options.set]
    recipe = parse_recipe({**read_recipe(options.recipe, changes).to_dict(), "seeds": [options.seed]})
    context = seed_context(recipe, options.seed)
    burnt_in = cached_burn_in(context, lambda: burn_in(context))
    for attack in options.attacks:
        for screen in options.screens:
            with suppress_log_messages("taster.core.learner"):
                found = measure(context, burnt_in, attack, screen, options.steps, options.split)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
