"""Trainings that a few trusted samples help: they say when to stop, or are learned themselves."""

from __future__ import annotations

import torch

from taster.core.batch import Batch
from taster.core.epochs import Epochs
from taster.core.fitting import Classifier
from taster.core.threat import countermeasure
from taster.core.view import View
from taster.defences.dataset.net_epochs import net_fit, train_by_epochs
from taster.defences.dataset.run_checks import check_run, check_trusted
from taster.defences.dataset_defence import RobustTraining, TrainingRun
from taster.utils.seeds import derived_seed, generator
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def early_stopping(*, least: PositiveCount = 20) -> RobustTraining:
    """Trains as usual, and takes the net as it was after the epoch that predicted the trusted samples best; of equal
    epochs the first.

    A net may learn something of the images before it has learned their noise. All epochs are made, with the learning
    rates that they have, so that none is missed.

    Args:
        least: trusted samples that it asks for, below which an accuracy says little.

    Raises (when called):
        BatchError, LabelError, DataError: see `taster.defences.dataset.run_checks.check_run` and `check_trusted`.
        DefenceError: for a training that is not one of a net, and if a step comes to no finite loss or gradient.

    Source: common practice; against error-minimising noise Huang et al. 2021 look at the accuracy of early epochs.
    """
    name = "early_stopping"

    def train(run: TrainingRun) -> tuple[Classifier, None]:
        samples, fit = check_run(run, name), net_fit(run, name)
        trusted = check_trusted(run, name, least=least)
        order = Epochs(
            torch.ones(len(samples)),
            fit.settings.batch_size,
            generator(run.seed, f"{name} order"),
            fit.settings.subsample,
        )

        def quality(view: View) -> float:
            return view.accuracy(trusted.x, trusted.y)

        seed = derived_seed(run.seed, f"{name} dropout")
        return train_by_epochs(fit, lambda: samples, order, name, seed=seed, quality=quality), None

    return RobustTraining(train)


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def clean_share(*, alone: bool = False, least: PositiveCount = 20) -> RobustTraining:
    """Trains on the trusted samples beside the training set.

    Args:
        alone: whether to train on the trusted samples in place of the set, which tells what the set adds to them. They
            are repeated until they are as many as both, so that as many steps are made.
        least: trusted samples that it asks for.

    Raises (when called):
        BatchError, LabelError, DataError: see `taster.defences.dataset.run_checks.check_run` and `check_trusted`.

    Source: Huang et al. 2021, who protect a share of a training set and compare with the clean rest alone.
    """
    name = "clean_share"

    def train(run: TrainingRun) -> tuple[Classifier, None]:
        samples, trusted = check_run(run, name), check_trusted(run, name, least=least)
        if not alone:
            both = Batch(torch.cat([samples.x, trusted.x.to(samples.x)]), torch.cat([samples.y, trusted.y]))
            return run.fit(both, seed=run.seed), None
        places = torch.arange(len(samples) + len(trusted), device=trusted.x.device) % len(trusted)
        return run.fit(trusted.select(places), seed=run.seed), None

    return RobustTraining(train)
