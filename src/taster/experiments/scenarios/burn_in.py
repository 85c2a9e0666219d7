"""Training before anybody attacks, or taking up a user's own weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster.core.checkpoint import load_state
from taster.core.guard import Guard
from taster.core.learner import Learner
from taster.core.snapshots import SnapshotBuffer
from taster.data import Augment, Images, ImageSet, Stream
from taster.errors import CheckpointError, ModelError
from taster.experiments.recipes.schema import Recipe, Surrogate
from taster.utils.seeds import derived_seed, generator


def build_model(recipe: Recipe, data: ImageSet, seed: int, device: torch.device) -> nn.Module:
    """The recipe's model with the seed's initial weights.

    Raises:
        ModelError: when it is no module, or its output is not one number a class.
    """
    torch.manual_seed(derived_seed(seed, "model"))
    model = make_model(recipe, data.shape, data.classes, device)
    _check_output(model, recipe.model.name, data, device)
    return model


def make_model(recipe: Recipe, shape: tuple[int, ...], classes: int, device: torch.device) -> nn.Module:
    """The recipe's model for samples of this shape, with whatever weights its function draws.

    Raises:
        ModelError: when it is no module.
    """
    factory = recipe.factory("model", recipe.model)
    try:
        model = factory.make({"shape": shape, "classes": classes}, recipe.model.settings)
    except ModelError:
        raise
    except Exception as error:  # a user's factory can raise anything
        raise ModelError(f"model.name: {recipe.model.name} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model.name: {recipe.model.name} returned {type(model).__name__}, wanted a torch.nn.Module")
    if recipe.compute.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device)


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """SGD as in the papers."""
    section = recipe.burn_in
    return torch.optim.SGD(
        model.parameters(), lr=section.learning_rate, momentum=section.momentum, weight_decay=section.weight_decay
    )


def burn_in(
    recipe: Recipe,
    data: ImageSet,
    images: Images,
    seed: int,
    device: torch.device,
    on_step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """A seed's model before the stream begins.

    Args:
        images: of the role "burn_in".
        on_step: called after every training step.

    Returns:
        the state of a Learner, its history holding the epochs asked for, labelled "epoch-N".
    """
    model = build_model(recipe, data, seed, device)
    optimizer = build_optimizer(recipe, model)
    learner = Learner(
        model, optimizer, cross_entropy, Guard(), history=SnapshotBuffer(capacity=0), precision=recipe.compute.precision
    )
    if recipe.burn_in.checkpoint is not None:
        assert learner.history is not None
        for label, path in recipe.burn_in.earlier.items():
            load_weights(model, path)
            learner.history.pin(label, learner.snapshot())
        load_weights(model, recipe.burn_in.checkpoint)
        return _state(learner)
    section = recipe.burn_in
    stream = Stream(
        images.to(device), section.batch_size, generator(seed, "burn_in"), Augment(section.crop, section.flip)
    )
    torch.manual_seed(derived_seed(seed, "burn-in dropout"))
    model.train()
    for epoch in range(1, section.epochs + 1):
        for _ in range(stream.batches_per_epoch):
            record = learner.step(stream.draw())
            if not record.verdict.committed:
                raise ModelError(
                    f"the burn-in of seed {seed} came to nothing in epoch {epoch}: {record.verdict.reason}; "
                    "try a smaller burn_in.learning_rate"
                )
            on_step()
        if epoch in section.keep_epochs and learner.history is not None:
            learner.history.pin(f"epoch-{epoch}", learner.snapshot())
    return _state(learner)


def surrogate_recipe(recipe: Recipe, section: Surrogate) -> Recipe:
    """The recipe as it is for a model of the attacker's own: of its architecture, and with no snapshots kept."""
    quiet = recipe.burn_in.model_copy(update={"keep_epochs": [], "earlier": {}})
    return recipe.model_copy(update={"model": section.model or recipe.model, "burn_in": quiet})


def load_weights(model: nn.Module, path: str) -> None:
    """Fills a model with a state dict from a safetensors file; matrices in half precision are widened.

    Raises:
        CheckpointError: when it is missing or damaged, or does not fit; every mismatch is listed by name.
    """
    saved = load_state(path)
    if isinstance(saved, dict) and isinstance(saved.get("model"), dict):
        saved = saved["model"]  # a Learner's state, as `taster.save_state` writes it
    own = model.state_dict()
    faults = [f"{name}: missing in the file" for name in own if name not in saved]
    faults += [f"{name}: not in the model" for name in saved if name not in own]
    faults += [
        f"{name}: got {list(saved[name].shape)}, wanted {list(tensor.shape)}"
        for name, tensor in own.items()
        if isinstance(saved.get(name), Tensor) and saved[name].shape != tensor.shape
    ]
    if faults:
        raise CheckpointError(f"{path} does not fit the model:\n" + "\n".join(f"  {fault}" for fault in faults))
    model.load_state_dict(saved)


def _state(learner: Learner) -> dict[str, Any]:
    return {**learner.state_dict(), "steps": 0}


def _check_output(model: nn.Module, name: str, data: ImageSet, device: torch.device) -> None:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = model(torch.zeros(2, *data.shape, device=device))
    except Exception as error:  # whatever a user's model raises on a shape it was not made for
        raise ModelError(f"model.name: {name} cannot take images of {list(data.shape)}: {error}") from error
    finally:
        model.train(was_training)
    got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if got != [2, data.classes]:
        raise ModelError(
            f"model.name: {name} returned {got} for two images, wanted [2, {data.classes}]: one number for each class"
        )
