"""The defence of an offline cell: a guard around the steps, weights of the samples, or a training of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from taster.core.batch import Batch
from taster.core.fitting import Classifier
from taster.core.guard import Guard
from taster.defences import DatasetDefence, RobustTraining, TrainingRun
from taster.defences.dataset_defence import check_weights
from taster.errors import DefenceError, RecipeError
from taster.experiments.recipes.schema import Defence
from taster.experiments.scenarios.builders import join_guards, make_guard_parts
from taster.experiments.scenarios.context import SeedContext
from taster.experiments.scenarios.offline_training import Training
from taster.offline import EpochEnd, NetTraining
from taster.utils.seeds import derived_seed


@dataclass(frozen=True, eq=False)
class Trained:
    """A model trained behind a defence.

    Attributes:
        model: that it became.
        weights: of the samples [n], 0 where one was left out; None where samples were not told apart.
        epochs: whether `on_epoch` was called.
    """

    model: Classifier
    weights: Tensor | None
    epochs: bool


@dataclass(frozen=True)
class OfflineDefence:
    """A recipe's defence and those named in its `plus`, together.

    Attributes:
        guard: the sum of their guards.
        weighers: each weighs all samples; the weights are multiplied.
        training: that one of them makes in its own way; None: as usual.
    """

    guard: Guard
    weighers: list[DatasetDefence]
    training: RobustTraining | None

    @property
    def guarded(self) -> bool:
        """Whether the guard has a stage."""
        return any(True for _ in self.guard)

    def train(
        self,
        training: Training,
        samples: Batch,
        trusted: Batch,
        *,
        classes: int,
        seed: int,
        on_epoch: Callable[[EpochEnd], None] | None = None,
    ) -> Trained:
        """Trains a model on samples that may be poisoned."""
        # A copy for defences that look at the set: other cells train on it too, whatever one of them writes into it.
        looked_at = samples if self.training is None and not self.weighers else _copied(samples)
        run = TrainingRun(looked_at, _copied(trusted), training, classes, derived_seed(seed, "defence") % 10**9)
        if self.training is not None:
            model, weights = self.training.train(run)
            return Trained(model, None if weights is None else check_weights(weights, len(samples)), epochs=False)
        weights = None
        for weigher in self.weighers:
            found = check_weights(weigher.weigh(run), len(samples))
            weights = found if weights is None else check_weights(weights * found.to(weights), len(samples))
        if not isinstance(training, NetTraining):
            return Trained(training(samples, weights=weights), weights, epochs=False)
        model = training.train(samples, self.guard, weights=weights, on_epoch=on_epoch)
        return Trained(model, weights, epochs=True)


def make_offline_defence(
    context: SeedContext, entry: Defence, probe: Batch | None = None, draws: str = "defence"
) -> OfflineDefence:
    """Makes a defence and those of its `plus`.

    Args:
        context: of the seed.
        entry: the defence.
        probe: trusted samples, for guards. None: those of the recipe.
        draws: names the generator that they share.

    Raises:
        RecipeError: if a function cannot work with its settings or returns no defence, or parts do not go together.
    """
    guards: list[Guard] = []
    weighers: list[DatasetDefence] = []
    trainings: list[RobustTraining] = []
    for made in make_guard_parts(context, entry, context.batches["probe"] if probe is None else probe, draws):
        if isinstance(made, Guard):
            guards.append(made)
        elif isinstance(made, DatasetDefence):
            weighers.append(made)
        elif isinstance(made, RobustTraining):
            trainings.append(made)
        else:
            raise RecipeError(
                f"defence {entry.label}: {entry.name} returned {type(made).__name__}, wanted a Guard, a DatasetDefence "
                "or a RobustTraining"
            )
    guard = join_guards(context.recipe, entry, guards)
    if trainings and (len(trainings) > 1 or weighers or any(True for _ in guard)):
        raise RecipeError(
            f"defence {entry.label}: got a training of its own beside other defences (plus), wanted it alone: it "
            "decides by itself what it trains on, and how"
        )
    return OfflineDefence(guard, weighers, trainings[0] if trainings else None)


def check_sizes(entry: Defence, defence: OfflineDefence, samples: int, trusted: int) -> None:
    """Raises RecipeError where the samples are too few for a defence, whatever they are."""
    for weigher in defence.weighers:
        try:
            if weigher.check is not None:
                weigher.check(samples, trusted)
        except DefenceError as error:
            raise RecipeError(f"defence {entry.label}: {error}") from error


def check_fits_training(entry: Defence, defence: OfflineDefence, training: Training) -> None:
    """Raises RecipeError for a guard around the training of an estimator, which makes no steps."""
    if defence.guarded and not isinstance(training, NetTraining):
        raise RecipeError(
            f"defence {entry.label}: got a guard with an estimator, which makes no steps that it could judge; wanted a "
            "defence of data sets, or a net"
        )


def _copied(samples: Batch) -> Batch:
    return Batch(samples.x.clone(), samples.y.clone())
