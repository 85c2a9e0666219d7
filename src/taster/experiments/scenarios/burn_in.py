"""Training before the stream begins, or loading of weights that were trained elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster.core.batch import Batch
from taster.core.guard import Guard
from taster.core.learner import Learner
from taster.core.snapshots import SnapshotBuffer
from taster.data import Augment, DataInfo, Stream
from taster.errors import ModelError
from taster.experiments.recipes.schema import Recipe, Surrogate
from taster.experiments.scenarios.context import BurntIn, SeedContext
from taster.experiments.scenarios.weights import load_weights
from taster.experiments.user_code import user_code
from taster.utils.seeds import derived_seed, generator


def input_range(data: DataInfo) -> tuple[float, float] | None:
    """The range of samples that a learner of a stream takes; None for token ids, which are no measurements."""
    return data.value_range if data.vocabulary is None else None


def build_model(recipe: Recipe, data: DataInfo, seed: int, device: torch.device) -> nn.Module:
    """Makes the recipe's model with the seed's initial weights.

    Raises:
        ModelError: if it is not a module, or its output is not one number for each class.
    """
    torch.manual_seed(derived_seed(seed, "model"))
    model = make_model(recipe, data.shape, data.classes, device, data.vocabulary)
    _check_output(model, recipe.model.name, data, device)
    return model


def make_model(
    recipe: Recipe, shape: tuple[int, ...], classes: int, device: torch.device, vocabulary: int | None = None
) -> nn.Module:
    """Makes the recipe's model for samples of a shape, token ids if there is a vocabulary, with whatever weights its
    function draws.

    Raises:
        ModelError: if it cannot be built or is not a module.
    """
    model = call_model_function(recipe, shape, classes, vocabulary)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model.name: {recipe.model.name} returned {type(model).__name__}, wanted a torch.nn.Module")
    if recipe.compute.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device)


def call_model_function(recipe: Recipe, shape: tuple[int, ...], classes: int, vocabulary: int | None) -> Any:
    """What the recipe's model function returns.

    Raises:
        ModelError: if it raises anything.
    """
    factory = recipe.factory("model", recipe.model)
    try:
        return factory.make({"shape": shape, "classes": classes, "vocabulary": vocabulary}, recipe.model.settings)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # a user's factory can raise anything
        raise ModelError(f"model.name: {recipe.model.name} cannot be built: {type(error).__name__}: {error}") from error


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Makes the optimizer of the papers, SGD with momentum and weight decay."""
    section = recipe.burn_in
    return torch.optim.SGD(
        model.parameters(), lr=section.learning_rate, momentum=section.momentum, weight_decay=section.weight_decay
    )


def burn_in(context: SeedContext, on_step: Callable[[], None] = lambda: None) -> BurntIn:
    """Trains a seed's model, or loads its weights from the recipe's checkpoint.

    Args:
        context: of the seed.
        on_step: called after every training step.

    Returns:
        the state that every cell of the seed starts from, its history holding the labelled snapshots.

    Raises:
        ModelError: if a step is refused, as its loss or gradient is not finite.
        CheckpointError: if a file of weights does not fit the model.
    """
    training = BurnInTraining(context)
    training.train(context.recipe.burn_in.epochs, on_step)
    return training.state()


class BurnInTraining:
    """A burn-in in parts, for one who wants to use the model before it is over. However its epochs are divided among
    calls, they end in the same bits.

    Args:
        context: of the seed. Weights from a checkpoint are loaded at once, and nothing is trained then.

    Raises:
        CheckpointError: if a file of weights does not fit the model.
    """

    def __init__(self, context: SeedContext) -> None:
        recipe = context.recipe
        model = build_model(recipe, context.data, context.seed, context.device)
        self._context = context
        self._history = SnapshotBuffer(capacity=0)
        self._learner = Learner(
            model,
            build_optimizer(recipe, model),
            cross_entropy,
            Guard(),
            snapshots=self._history,
            input_range=input_range(context.data),
            precision=recipe.compute.precision,
        )
        self._stream: Stream | None = None
        self._random: Tensor | None = None
        self._epochs = 0
        if recipe.burn_in.checkpoint is not None:
            for label, path in recipe.burn_in.earlier.items():
                load_weights(model, path)
                self._history.pin(label, self._learner.snapshot())
            load_weights(model, recipe.burn_in.checkpoint)
        else:
            samples, augment = context.roles["burn_in"].to(context.device), _augment(context)
            draws = generator(context.seed, "burn_in")
            self._stream = Stream(samples, recipe.burn_in.batch_size, draws, augment)

    @property
    def epochs(self) -> int:
        """How many are done."""
        return self._epochs

    def train(self, until: int, on_step: Callable[[], None] = lambda: None) -> None:
        """Trains until so many epochs are done, those of earlier calls among them; with a checkpoint not at all.

        Args:
            until: number of epochs since the start; none are undone.
            on_step: called after every training step.

        Raises:
            ModelError: if a step is refused, as its loss or gradient is not finite.
        """
        if self._stream is None:
            return
        context, keep = self._context, self._context.recipe.burn_in.keep_epochs
        _resume_random_numbers(self._random, context)
        self._learner.model.train()
        with user_code(context.recipe.model):
            while self._epochs < until:
                for _ in range(self._stream.batches_per_epoch):
                    self._step(self._stream.draw())
                    on_step()
                self._epochs += 1
                if self._epochs in keep:
                    self._history.pin(f"epoch-{self._epochs}", self._learner.snapshot())
        self._random = _random_numbers(context)

    def state(self) -> BurntIn:
        """The state as it is now, from which cells can start."""
        return cast(BurntIn, {**self._learner.state_dict(), "steps": 0})

    def _step(self, batch: Batch) -> None:
        record = self._learner.step(batch)
        if not record.verdict.committed:
            raise ModelError(
                f"the burn-in of seed {self._context.seed} came to nothing in epoch {self._epochs + 1}: "
                f"{record.verdict.reason}; try a smaller burn_in.learning_rate"
            )


def _augment(context: SeedContext) -> Augment:
    return Augment(context.recipe.burn_in.crop, context.recipe.burn_in.flip)


def _random_numbers(context: SeedContext) -> Tensor:
    """The state of torch's own generator, of which dropout draws."""
    device = context.device
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _resume_random_numbers(state: Tensor | None, context: SeedContext) -> None:
    """Has torch's own generator go on from a state; None: from the start of the seed's burn-in."""
    if state is None:
        torch.manual_seed(derived_seed(context.seed, "burn-in dropout"))
    elif context.device.type == "cuda":
        torch.cuda.set_rng_state(state, context.device)
    else:
        torch.set_rng_state(state)


def surrogate_recipe(recipe: Recipe, section: Surrogate) -> Recipe:
    """The recipe by which a surrogate is burnt in: with its architecture, and without snapshots."""
    no_snapshots = recipe.burn_in.model_copy(update={"keep_epochs": [], "earlier": {}})
    return recipe.model_copy(update={"model": section.model or recipe.model, "burn_in": no_snapshots})


def _check_output(model: nn.Module, name: str, data: DataInfo, device: torch.device) -> None:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            kind = torch.float32 if data.vocabulary is None else torch.int64
            output = model(torch.zeros(2, *data.shape, dtype=kind, device=device))
    except (Exception, SystemExit) as error:  # whatever a user's model raises on a shape it was not made for
        raise ModelError(f"model.name: {name} cannot take samples of {list(data.shape)}: {error}") from error
    finally:
        model.train(was_training)
    got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if got != [2, data.classes]:
        raise ModelError(
            f"model.name: {name} returned {got} for two samples, wanted [2, {data.classes}]: one number for each class"
        )
