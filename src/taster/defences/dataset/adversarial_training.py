"""Adversarial training: each batch is moved to where the net is worst at it, and learned there."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.core.backward import online_gradient
from taster.core.batch import Batch
from taster.core.epochs import Epochs
from taster.core.fitting import Classifier
from taster.core.guard import ScreenedBatch
from taster.core.state import LearnerState
from taster.core.step import GradientFn
from taster.core.threat import countermeasure
from taster.core.types import Tensors
from taster.defences.dataset.net_epochs import net_fit, train_by_epochs
from taster.defences.dataset.run_checks import check_run
from taster.defences.dataset_defence import RobustTraining, TrainingRun
from taster.perturbations.pgd import LpBall, Norm, pgd
from taster.perturbations.sample_gradient import cross_entropy_gradient
from taster.utils.seeds import derived_seed, generator
from taster.utils.setting_types import PositiveCount, PositiveFloat
from taster.utils.settings import validate_settings

_NAME = "adversarial_training"


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def adversarial_training(
    *,
    rho: Annotated[float, Field(gt=0)] = 4 / 255,
    norm: Norm = "linf",
    steps: PositiveCount = 10,
    step_size: PositiveFloat | None = None,
) -> RobustTraining:
    """Trains on the samples of a ball around each sample that the net is worst at: min over θ of
    max over ‖a‖ ≤ ρ of CE(f(x + a; θ), y).

    The maximum is sought anew for each batch, by projected gradient ascent from a random start on the net in eval mode,
    after the crops and flips of the training. A perturbation that is smaller than ρ is learned no better than any
    other change of that size. Costs `steps` forward and backward passes more a step.

    Args:
        rho: ρ, the radius of the ball, in the units of the data.
        norm: of the ball.
        steps: of the ascent.
        step_size: of the ascent, in the units of the data. None: 2.5 ρ / steps, or ρ where that is less.

    Raises (when called):
        BatchError, LabelError, DataError: see `taster.defences.dataset.run_checks.check_run`.
        DefenceError: for a training that is not one of a net, and if a step comes to no finite loss or gradient.

    Source: Madry et al. 2018, Eq. 2.1; against error-minimising noise Huang et al. 2021, and against its robust form Fu
        et al. 2022, whose noise is made for a given ρ.
    """
    size = min(rho, 2.5 * rho / steps) if step_size is None else step_size

    def train(run: TrainingRun) -> tuple[Classifier, None]:
        samples, fit = check_run(run, _NAME, numbers=True), net_fit(run, _NAME)
        order = Epochs(
            torch.ones(len(samples)),
            fit.settings.batch_size,
            generator(run.seed, f"{_NAME} order"),
            fit.settings.subsample,
        )
        worst = worst_case_gradient(rho, norm, steps, size, generator(run.seed, f"{_NAME} starts"))
        seed = derived_seed(run.seed, f"{_NAME} dropout")
        return train_by_epochs(fit, lambda: samples, order, _NAME, seed=seed, gradient=worst), None

    return RobustTraining(train)


def worst_case_gradient(
    rho: float, norm: Norm, steps: int, step_size: float, draws: torch.Generator
) -> GradientFn[Batch]:
    """How a step computes its gradient: at the samples of the balls that the net is worst at.

    Args:
        rho: radius of the balls.
        norm: theirs.
        steps: of the ascent.
        step_size: of the ascent.
        draws: the starts are drawn from it.
    """

    def gradient(screened: ScreenedBatch[Batch], state: LearnerState) -> tuple[Tensors, Tensor]:
        view, batch = state.view(), screened.batch
        low, high = (-torch.inf, torch.inf) if view.input_range is None else view.input_range
        ball = LpBall(norm, rho, low, high)
        x = pgd(
            cross_entropy_gradient(view, batch.y),
            batch.x,
            ball,
            steps=steps,
            step_size=step_size,
            init=ball.random(batch.x, draws),
        )
        moved = screened.correct(Batch(x, batch.y), torch.ones(len(batch), dtype=torch.bool, device=x.device))
        return online_gradient(moved, state)

    return gradient
