"""Short trainings of the user's model: which learning rate fits, and how long a step takes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster.data import Stream
from taster.experiments.scenarios.burn_in import build_model, build_optimizer
from taster.experiments.scenarios.context import SeedContext
from taster.experiments.scenarios.weights import load_weights
from taster.experiments.user_code import user_code
from taster.utils.seeds import generator

RATES = (0.1, 0.03, 0.01, 0.003, 0.001)
"""Tried for a model that learns from the start."""
STREAM_RATES = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
"""Tried for one that goes on learning, the greatest first."""
_MOST_STEPS, _FEWEST_STEPS, _TIMED_STEPS, _MOMENTS, _CHUNK = 60, 10, 3, 4, 500
_AS_GOOD = 1.05
"""Losses up to so many times the least count as equal: the greater rate is taken, as by an owner who wants to learn."""


@dataclass(frozen=True)
class RateTrials:
    """Trains copies of a seed's model, all from the same weights and on the same batches, with several learning rates.

    What they learn from serves nothing but training, and what they are measured on is the attacker's: neither the
    trusted samples nor the test's are looked at.

    Attributes:
        context: of the seed.
        batch_size: of the training.
    """

    context: SeedContext
    batch_size: int

    def step_seconds(self) -> float:
        """Seconds of a step of plain training; the first, which takes longer, is not counted."""
        with user_code(self.context.recipe.model):
            steps = self._train(RATES[-1])
            next(steps)
            began = time.perf_counter()
            for _ in range(_TIMED_STEPS):
                next(steps)
            return (time.perf_counter() - began) / _TIMED_STEPS

    def learning_rate(self, steps: int) -> float:
        """The greatest of `RATES` that brings a model that learns from the start about the least loss.

        Args:
            steps: of each trial.
        """
        return choose_rate({rate: float(self._losses_after(rate, steps).mean()) for rate in RATES})

    def stream_rate(self, steps: int) -> float | None:
        """The greatest of `STREAM_RATES` at which honest batches keep the model level, as the owner of one that goes on
        learning would choose it; see `is_level`. None if there is none.

        Args:
            steps: of each trial.
        """
        with user_code(self.context.recipe.model):
            before = self._losses(self._model())
        return next((rate for rate in STREAM_RATES if is_level(before, self._losses_after(rate, steps))), None)

    def _losses_after(self, rate: float, steps: int) -> Tensor:
        """The loss of each held-out sample, its mean over moments of the second half of a trial, [n]: where a trial
        swings, its last step alone says little."""
        moments = {steps - round(i * steps / (2 * _MOMENTS)) for i in range(_MOMENTS)}
        with user_code(self.context.recipe.model):
            trained = islice(enumerate(self._train(rate), 1), steps)
            return torch.stack([self._losses(model) for step, model in trained if step in moments]).mean(0)

    def _train(self, rate: float) -> Iterator[nn.Module]:
        """The model after each step, without an end."""
        recipe, size = self.context.recipe, self.batch_size
        samples = self.context.roles["burn_in" if recipe.offline is None or recipe.offline.burns_in else "train"]
        stream = Stream(samples, min(size, len(samples)), generator(self.context.seed, "audit"))
        model = self._model()
        optimizer = build_optimizer(recipe, model)
        for group in optimizer.param_groups:
            group["lr"] = rate
        while True:
            batch = stream.draw().to(self.context.device)
            model.train()
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model(batch.x), batch.y))
            optimizer.step()
            yield model

    def _model(self) -> nn.Module:
        """As it is before any trial."""
        recipe = self.context.recipe
        model = build_model(recipe, self.context.data, self.context.seed, self.context.device)
        if recipe.burn_in.checkpoint is not None:
            load_weights(model, recipe.burn_in.checkpoint)
        return model

    @torch.no_grad()
    def _losses(self, model: nn.Module) -> Tensor:
        """The loss of each of the attacker's samples, [n]."""
        held_out = self.context.batches["validation"]
        model.eval()
        outputs = [model(x) for x in held_out.x.split(_CHUNK)]
        return cross_entropy(torch.cat(outputs), held_out.y, reduction="none")


def trial_steps(step_seconds: float, seconds: float) -> int:
    """Steps of each trial, so that all of them together take about so many seconds; none is shorter than ten steps.

    Args:
        step_seconds: of one step.
        seconds: for all.
    """
    return max(_FEWEST_STEPS, min(_MOST_STEPS, int(seconds / len(STREAM_RATES) / max(step_seconds, 1e-9))))


def choose_rate(losses: dict[float, float]) -> float:
    """The greatest rate whose loss is at most 5 % over the least; the smallest if no loss is finite."""
    finite = {rate: loss for rate, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        return min(losses)
    least = min(finite.values())
    return max(rate for rate, loss in finite.items() if loss <= _AS_GOOD * least)


def is_level(before: Tensor, after: Tensor) -> bool:
    """Whether the mean loss did not rise by more than its standard error, by the samples' own differences.

    Args:
        before, after: one loss for each sample, [n], at least two; of the same samples.

    Returns:
        False if any loss is not finite.
    """
    rise = (after - before).double()
    if not bool(rise.isfinite().all()):
        return False
    return float(rise.mean()) <= float(rise.std()) / math.sqrt(len(rise))
