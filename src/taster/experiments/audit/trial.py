"""Short trainings of the user's model on samples of the burn-in: which rate fits, and how long a step takes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from taster.core.batch import Batch
from taster.data import as_batch
from taster.experiments.scenarios.burn_in import build_model, build_optimizer
from taster.experiments.scenarios.context import SeedContext
from taster.experiments.scenarios.weights import load_weights
from taster.experiments.user_code import user_code
from taster.utils.seeds import generator

RATES = (0.1, 0.03, 0.01, 0.003, 0.001)
_MOST_STEPS, _FEWEST_STEPS = 60, 5
_AS_GOOD = 1.05
"""Losses up to so many times the least count as equal: the greater rate is taken, as by an owner who wants to learn."""


@dataclass(frozen=True)
class Trials:
    """What short trainings found.

    Attributes:
        learning_rate: the greatest whose loss is about the least.
        step_seconds: of a step of plain training.
    """

    learning_rate: float
    step_seconds: float


def try_learning_rates(context: SeedContext, batch_size: int, seconds: float) -> Trials:
    """Trains from the same weights with each of `RATES` and compares the loss on the attacker's samples, which serve no
    purpose of the model's: neither the trusted samples nor the test is looked at.

    Args:
        context: of a seed.
        batch_size: of the training.
        seconds: that all trials together may take, about; none is shorter than five steps.

    Returns:
        the rate; the smallest if no training ended with a finite loss.
    """
    recipe = context.recipe
    samples = context.roles["burn_in" if recipe.offline is None or recipe.offline.burns_in else "train"]
    held_out = context.batches["validation"]
    order = torch.randperm(len(samples), generator=generator(context.seed, "audit"))

    def train(rate: float, steps: int) -> float:
        model = build_model(recipe, context.data, context.seed, context.device)
        if recipe.burn_in.checkpoint is not None:
            load_weights(model, recipe.burn_in.checkpoint)
        optimizer = build_optimizer(recipe, model)
        for group in optimizer.param_groups:
            group["lr"] = rate
        model.train()
        for step in range(steps):
            places = torch.arange(step * batch_size, (step + 1) * batch_size) % len(order)
            batch = as_batch(samples.select(order[places])).to(context.device)
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model(batch.x), batch.y))
            optimizer.step()
        return _loss(model, held_out)

    with user_code(recipe.model):
        train(RATES[-1], 1)  # the first pass of a model takes longer than those that follow
        began = time.perf_counter()
        train(RATES[-1], _FEWEST_STEPS)
        step_seconds = (time.perf_counter() - began) / _FEWEST_STEPS
        steps = max(_FEWEST_STEPS, min(_MOST_STEPS, int(seconds / len(RATES) / step_seconds)))
        losses = {rate: train(rate, steps) for rate in RATES}
    return Trials(choose_rate(losses), step_seconds)


def choose_rate(losses: dict[float, float]) -> float:
    """The greatest rate whose loss is at most 5 % over the least; the smallest if no loss is finite."""
    finite = {rate: loss for rate, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        return min(losses)
    least = min(finite.values())
    return max(rate for rate, loss in finite.items() if loss <= _AS_GOOD * least)


@torch.no_grad()
def _loss(model: nn.Module, batch: Batch) -> float:
    model.eval()
    return float(cross_entropy(model(batch.x), batch.y))
