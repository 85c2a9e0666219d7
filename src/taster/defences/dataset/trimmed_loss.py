"""Iterative trimmed loss minimisation: train, keep the samples that are fitted best, and train on those again."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from taster.core.fitting import Classifier, ResumableFit
from taster.core.threat import countermeasure
from taster.defences.dataset.readings import sample_losses
from taster.defences.dataset.run_checks import Share, check_run, kept_weights, part_of, smallest
from taster.defences.dataset_defence import RobustTraining, TrainingRun
from taster.errors import DefenceError
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings

Restart = Literal["fresh", "warm"]


@countermeasure("robust statistics", "indiscriminate availability")
@validate_settings
def trimmed_loss(*, keep: Share = 0.8, rounds: PositiveCount = 5, restart: Restart = "fresh") -> RobustTraining:
    """Trains again and again on the samples with the smallest loss under the last model (ITLM).

        S₀ = all samples, θ₀ = fit(S₀)
        S_t = the ⌊α n⌋ samples with the smallest loss under θ_{t−1}, θ_t = fit(S_t)

    It ends after `rounds`, or when a round keeps the same samples as the one before. Costs at most 1 + `rounds` fits.
    Of equal losses the sample that comes first is kept. Losses are compared over all classes together, so that a class
    that is harder than the others loses more of its samples.

    Args:
        keep: α; below the share of clean samples rather than above it (the authors take it 5 points lower).
        rounds: how often samples are chosen anew.
        restart: "fresh" trains from the start each time, as the authors' code does; "warm" goes on from the last model,
            which the training must be able to do (`taster.core.fitting.ResumableFit`).

    Raises (when called):
        BatchError, LabelError, DataError: see `taster.defences.dataset.run_checks.check_run`.
        DefenceError: if `keep` keeps no sample or a single class; for "warm" with a training that cannot go on.

    Source: Shen and Sanghavi 2019, Algorithm 1, whose update of the model starts anew or goes on.
    """

    def train(run: TrainingRun) -> tuple[Classifier, Tensor]:
        return _train(run, keep, rounds, restart)

    return RobustTraining(train)


def _train(run: TrainingRun, keep: float, rounds: int, restart: Restart) -> tuple[Classifier, Tensor]:
    samples, fit = check_run(run, "trimmed_loss"), run.fit
    count = part_of(keep, len(samples))
    if count == 0:
        raise DefenceError(f"trimmed_loss: got keep {keep} of {len(samples)} samples, wanted a share that keeps some")
    if restart == "warm" and not isinstance(fit, ResumableFit):
        raise DefenceError('trimmed_loss: got a training that cannot go on from a model, wanted restart = "fresh"')
    kept = torch.ones(len(samples), dtype=torch.bool, device=samples.x.device)
    weights = kept.to(torch.float32)
    classifier = fit(samples, seed=run.seed)
    for _ in range(rounds):
        chosen = smallest(sample_losses(classifier, samples, run.classes), count)
        if torch.equal(chosen, kept):
            break
        kept, weights = chosen, kept_weights(chosen, samples.y, "trimmed_loss")
        if restart == "warm" and isinstance(fit, ResumableFit):
            classifier = fit.resume(classifier, samples, weights=weights, seed=run.seed)
        else:
            classifier = fit(samples, weights=weights, seed=run.seed)
    return classifier, weights
