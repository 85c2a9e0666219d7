"""The offline scenario: a training set is poisoned before a model is trained on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.fitting import CertifiedClassifier, Classifier
from taster.errors import RecipeError
from taster.experiments.recipes.schema import Defence, Entry
from taster.experiments.results import CellKey, EpochLine, OfflineContent
from taster.experiments.scenarios.builders import check_budget, check_guard
from taster.experiments.scenarios.burn_in import build_model
from taster.experiments.scenarios.context import BurntIn, SeedContext
from taster.experiments.scenarios.offline_attack import CraftedPoison, craft, make_offline_attack
from taster.experiments.scenarios.offline_defence import (
    check_fits_training,
    check_sizes,
    make_offline_defence,
)
from taster.experiments.scenarios.offline_training import attacker_fits, offline_section, victim_training
from taster.experiments.user_code import user_code
from taster.offline import (
    EpochEnd,
    NetTraining,
    Removal,
    accuracy,
    certified_accuracy,
    certified_budgets,
    mean_loss,
    recall_by_class,
    target_success,
)
from taster.utils.seeds import derived_seed

_SHOWN = 6
"""Samples kept for the page's pictures."""


@dataclass(frozen=True)
class OfflineResult:
    """What an offline cell leaves besides its epochs.

    Attributes:
        content: of cell.json.
        images: clean and poisoned samples for the page, [2, k, ...] by name; None where none was changed.
    """

    content: OfflineContent
    images: Mapping[str, Tensor] | None


class OfflineCell:
    """One cell of an offline recipe.

    Args:
        context: of the seed.
        burnt_in: the state that training begins with; None from scratch.
        attack, defence: entries of the recipe.
        on_line: is given the line of steps.jsonl of each epoch.
    """

    def __init__(
        self,
        context: SeedContext,
        burnt_in: BurntIn | None,
        attack: Entry,
        defence: Defence,
        on_line: Callable[[EpochLine], None],
    ) -> None:
        self._context = context
        self._burnt_in = burnt_in
        self._attack = attack
        self._defence = defence
        self._on_line = on_line
        self._key = CellKey(attack=attack.label, defence=defence.label, seed=context.seed)
        self._test = context.batches["test"]
        self._steps = self._refused = 0

    def run(self) -> OfflineResult:
        """Crafts the poison, trains behind the defence, and measures."""
        context, recipe = self._context, self._context.recipe
        crafted = craft(context, self._attack, self._burnt_in, self._defence)
        training = victim_training(context, self._burnt_in)
        samples = crafted.dataset.samples
        began = time.perf_counter()
        measuring = 0.0

        def on_epoch(end: EpochEnd) -> None:
            nonlocal measuring
            start = time.perf_counter()
            self._count(end)
            shown = end.epoch % recipe.compute.eval_every == 0 or end.epoch == offline_section(recipe).epochs
            self._on_line(self._line(end.epoch, end.view, crafted, end, shown=shown))
            measuring += time.perf_counter() - start

        # What is drawn outside of generators is the same whatever ran before.
        torch.manual_seed(derived_seed(context.seed, "offline defence"))
        with user_code(self._defence, recipe.model):
            defence = make_offline_defence(context, self._defence)
            trained = defence.train(
                training,
                samples,
                context.batches["probe"],
                classes=context.data.classes,
                seed=context.seed,
                on_epoch=on_epoch,
            )
            seconds = time.perf_counter() - began - measuring
            if not trained.epochs:
                self._on_line(self._line(1, trained.model, crafted, None, shown=True))
            row = self._row(trained.model, trained.weights, crafted, seconds)
        return OfflineResult({"row": row}, _pictures(context.training_set, crafted))

    def _count(self, end: EpochEnd) -> None:
        self._steps += len(end.records)
        self._refused += sum(not record.verdict.committed for record in end.records)

    def _line(
        self, epoch: int, model: Classifier, crafted: CraftedPoison, end: EpochEnd | None, *, shown: bool
    ) -> EpochLine:
        """What the model does after an epoch; where it is not shown, the counts alone."""
        samples, poisoned = crafted.dataset.samples, crafted.dataset.poisoned
        line: Any = {
            **self._key,
            "epoch": epoch,
            "steps": self._steps,
            "refused": self._refused,
            "loss_clean": mean_loss(model, samples, ~poisoned) if shown else None,
            "loss_poisoned": mean_loss(model, samples, poisoned) if shown else None,
            "test_accuracy": accuracy(model, self._test) if shown else None,
            **(self._successes(model, crafted) if shown else {}),
        }
        refused = [] if end is None else [record for record in end.records if not record.verdict.committed]
        if refused:
            line |= {"stage": refused[0].verdict.stage, "reason": refused[0].verdict.reason}
        return line  # type: ignore[no-any-return]

    def _successes(self, model: Classifier, crafted: CraftedPoison) -> dict[str, float]:
        found, backdoor = {}, crafted.attack.backdoor
        if backdoor is not None:
            found["asr"] = backdoor.success_rate(model, self._test, self._context.data.value_range)
        if crafted.target is not None:
            found["target_success"] = target_success(model, crafted.target)
        return found

    def _row(self, model: Classifier, weights: Tensor | None, crafted: CraftedPoison, seconds: float) -> Any:
        dataset, clean = crafted.dataset, self._context.training_set
        removal = Removal.of(torch.ones(len(dataset.samples)) if weights is None else weights, dataset.poisoned)
        row: dict[str, Any] = {
            **self._key,
            "accuracy": accuracy(model, self._test),
            "recall": recall_by_class(model, self._test, self._context.data.classes),
            "samples": len(dataset.samples),
            "poisoned": int(dataset.poisoned.sum()),
            "inserted": len(dataset.samples) - len(clean),
            "kept": len(dataset.samples) - removal.removed,
            "precision": removal.precision,
            "found": None if weights is None else removal.recall,
            "steps": self._steps,
            "refused": self._refused,
            "seconds_attack": crafted.seconds,
            "seconds_training": seconds,
            **self._successes(model, crafted),
        }
        if crafted.target is not None:
            row["targets"] = len(crafted.target)
        if isinstance(model, CertifiedClassifier):
            certified = certified_accuracy(model, self._test, certified_budgets(model, self._test))
            row["certified"] = {str(budget): left for budget, left in certified.items()}
        return row

    @classmethod
    def dry_run(cls, context: SeedContext) -> None:
        """Makes the model and every attack and defence once.

        Raises:
            RecipeError, ModelError: for what cannot be made or does not go together.
        """
        recipe, section = context.recipe, offline_section(context.recipe)
        training = victim_training(context, None)
        attacker_fits(context, None)
        if len(context.roles["train"]) < 2:
            raise RecipeError(f"split.train: got {len(context.roles['train'])} samples, wanted at least 2")
        for entry in recipe.defence:
            defence = make_offline_defence(context, entry)
            check_fits_training(entry, defence, training)
            check_sizes(entry, defence, len(context.roles["train"]), len(context.roles["probe"]))
            if isinstance(training, NetTraining):
                model = build_model(recipe, context.data, context.seed, context.device)
                check_guard(context, model, entry, defence.guard)
        for attack in recipe.attack:
            check_budget(attack, make_offline_attack(context, attack), context.training_set)
        if section.mode == "transfer" and isinstance(training, NetTraining):
            training.check_mode()


def _pictures(clean: Batch, crafted: CraftedPoison) -> dict[str, Tensor] | None:
    """A few samples before and after, [2, k, ...]; None where none was changed in its place or they are no images."""
    changed = crafted.dataset.poisoned[: len(clean)].nonzero().flatten()[:_SHOWN].to(clean.x.device)
    if not len(changed) or clean.x.dim() != 4:
        return None
    return {"train": torch.stack([clean.x[changed], crafted.dataset.samples.x[changed]]).cpu()}
