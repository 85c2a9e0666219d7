"""Reject on negative impact: samples are tried out on small training sets, and those that do harm are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.fitting import Classifier, Fit
from taster.core.threat import countermeasure
from taster.defences.dataset.readings import class_outputs
from taster.defences.dataset.run_checks import check_run, check_trusted, kept_weights
from taster.defences.dataset_defence import DatasetDefence, TrainingRun
from taster.errors import DefenceError
from taster.stats.contamination import conformal_p_values
from taster.utils.seeds import generator
from taster.utils.setting_types import Alpha, PositiveCount
from taster.utils.settings import validate_settings

_NAME = "reject_on_negative_impact"

_LEAST_VALIDATION = 20


@dataclass(frozen=True)
class _Settings:
    base: Literal["trusted", "samples"]
    base_size: int
    trials: int
    group_size: int | None
    calibration: int
    alpha: float
    max_fits: int

    def pool(self, trusted: int) -> int:
        """How many of the trusted samples are left for validation beside a base set and those for calibration."""
        return trusted - trusted // 3 - (self.base_size if self.base == "trusted" else 0)

    def fits(self, groups: int) -> int:
        """How many trainings it takes."""
        return self.trials * (1 + groups + self.calibration)


@countermeasure(
    "test",
    "indiscriminate availability",
    note="It tests samples before they are learned, and could be counted as sanitization.",
)
@validate_settings
def reject_on_negative_impact(
    *,
    base: Literal["trusted", "samples"] = "trusted",
    base_size: PositiveCount = 20,
    trials: PositiveCount = 5,
    group_size: PositiveCount | None = None,
    calibration: PositiveCount = 50,
    alpha: Alpha = 0.05,
    max_fits: PositiveCount = 5000,
) -> DatasetDefence:
    """Leaves samples out that lower accuracy when a small training set is given them (RONI).

        impact(g) = mean over trials of acc(fit(base ∪ g)) − acc(fit(base)) on validation samples

    In each trial the base is drawn anew, as evenly over the classes as it goes, and validation samples are the trusted
    ones that are left. Groups are random. What is significantly negative, the impact of groups of trusted samples says,
    a third of which are used for this alone: a group is rejected if no more than a share `alpha` of those, itself
    counted, have an impact as low. So about that share of honest samples is lost.

    Costs trials · (1 + groups + calibration) small fits: with single samples, 5 for each sample, and 255.

    Args:
        base: where base sets come from: "trusted" samples, or the "samples" of the training set at random, where a
            sample that the base holds counts twice there.
        base_size: samples in a base set.
        trials: base sets.
        group_size: samples that are tried, and rejected, together. None: as few as `max_fits` allows, 1 at best.
            Larger groups cost less, and take honest samples with them.
        calibration: groups of trusted samples that are tried.
        alpha: see above.
        max_fits: the largest number of small fits.

    Raises (when called):
        BatchError, LabelError, DataError: see `taster.defences.dataset.run_checks.check_run` and `check_trusted`.
        DefenceError: for too few trusted samples, an `alpha` that no group could fall below, more fits than
            `max_fits`, and if no two classes are left.

    Source: Nelson et al. 2008, Section 5.1 (bases of 20 messages, 50 for validation, 5 trials). Drawing by class, and
        the threshold from trusted samples where they look at what attacks and other messages did, are taster's own.
    """
    settings = _Settings(base, base_size, trials, group_size, calibration, alpha, max_fits)

    def weigh(run: TrainingRun) -> Tensor:
        return _weigh(run, settings)

    def check(samples: int, trusted: int) -> None:
        known = trusted // 3
        _check(settings, _group_size(settings, samples), samples, known=known, pool=settings.pool(trusted))

    return DatasetDefence(weigh, check)


def group_impacts(
    fit: Fit, base: Batch, groups: Sequence[Batch], validation: Batch, *, classes: int, seed: int
) -> Tensor:
    """What each group does to the accuracy of a model that is trained on a base set, in fractions, float64 [groups].

    Args:
        fit: trains.
        base: the set that each group is added to by itself.
        groups: of samples.
        validation: what accuracy is measured on.
        classes: number of classes.
        seed: of all trainings.
    """

    def accuracy(classifier: Classifier) -> float:
        predicted = class_outputs(classifier, validation.x, classes).argmax(1)
        return float((predicted == validation.y).double().mean())

    before = accuracy(fit(base, seed=seed))
    joined = (Batch(torch.cat([base.x, group.x]), torch.cat([base.y, group.y])) for group in groups)
    return torch.tensor([accuracy(fit(samples, seed=seed)) - before for samples in joined], dtype=torch.float64)


def _weigh(run: TrainingRun, settings: _Settings) -> Tensor:
    samples = check_run(run, _NAME)
    from_trusted = settings.base == "trusted"
    trusted = check_trusted(run, _NAME, least=3)
    draw = generator(run.seed, _NAME)
    order = torch.randperm(len(trusted), generator=draw)
    known, pool = trusted.select(order[: len(order) // 3]), trusted.select(order[len(order) // 3 :])
    size = _group_size(settings, len(samples))
    _check(settings, size, len(samples), known=len(known), pool=settings.pool(len(trusted)))
    parts = random_groups(len(samples), size, draw)
    if settings.fits(len(parts)) > settings.max_fits:
        raise DefenceError(
            f"{_NAME}: got {len(parts)} groups and so {settings.fits(len(parts))} fits, wanted at most "
            f"{settings.max_fits}: a larger group_size, fewer trials, or a larger max_fits"
        )
    tried = [samples.select(part) for part in parts]
    tried += [known.select(part) for part in _calibration_groups(len(known), size, settings.calibration, draw)]
    impacts = torch.zeros(len(tried), dtype=torch.float64)
    for _ in range(settings.trials):
        source = pool if from_trusted else samples
        chosen = even_draw(source.y, settings.base_size, draw)
        base, rest = source.select(chosen), torch.ones(len(pool), dtype=torch.bool)
        if from_trusted:
            rest[chosen] = False
        impacts += group_impacts(run.fit, base, tried, pool.select(rest), classes=run.classes, seed=run.seed)
    # Sums of fractions with one denominator: rounded, so that equal impacts are equal.
    harm = (-impacts / settings.trials).numpy().round(9)
    rejected = conformal_p_values(harm[: len(parts)], harm[len(parts) :]) <= settings.alpha
    kept = torch.ones(len(samples), dtype=torch.bool)
    for part, out in zip(parts, rejected, strict=True):
        kept[part] = not out
    return kept_weights(kept.to(samples.y.device), samples.y, _NAME)


def random_groups(samples: int, size: int, draw: torch.Generator) -> list[Tensor]:
    """Random groups of as equal a size as it goes, each sample in one: their places, int64.

    Args:
        samples: how many there are.
        size: the largest group's.
        draw: what they are drawn by.
    """
    return list(torch.randperm(samples, generator=draw).tensor_split(-(-samples // size)))


def even_draw(y: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Random samples, as many of each label as of every other where there are enough, int64 [count].

    Args:
        y: labels [n].
        count: how many.
        draw: what they are drawn by.
    """
    order = torch.randperm(len(y), generator=draw)
    labels = y.cpu()[order]
    one_hot = torch.nn.functional.one_hot(labels)
    turn = one_hot.cumsum(0).gather(1, labels[:, None])[:, 0]  # the how manieth of its label a sample is
    return order[turn.argsort(stable=True)[:count]]


def _group_size(settings: _Settings, samples: int) -> int:
    """The size asked for, or the smallest that stays within the fits."""
    if settings.group_size is not None:
        return settings.group_size
    room = settings.max_fits // settings.trials - 1 - settings.calibration
    return max(1, -(-samples // room)) if room > 0 else samples


def _calibration_groups(samples: int, size: int, count: int, draw: torch.Generator) -> list[Tensor]:
    """As many groups as wanted, all of the same size; beyond one round they overlap."""
    whole = samples // size
    groups: list[Tensor] = []
    while len(groups) < count:
        groups += torch.split(torch.randperm(samples, generator=draw)[: whole * size], size)
    return groups[:count]


def _check(settings: _Settings, size: int, samples: int, *, known: int, pool: int) -> None:
    """Raises DefenceError for settings that cannot work with as many samples as there are."""
    least = settings.calibration if size == 1 else 2 * size
    if known < least:
        raise DefenceError(
            f"{_NAME}: got {known} trusted samples for calibration, a third of all, wanted {least} for groups of "
            f"{size}: give it more, or a smaller calibration or group_size"
        )
    if pool < _LEAST_VALIDATION:
        raise DefenceError(
            f"{_NAME}: got {max(pool, 0)} trusted samples for validation, wanted at least {_LEAST_VALIDATION}: give it "
            "more, or a smaller base_size"
        )
    if settings.base == "samples" and settings.base_size > samples:
        raise DefenceError(f"{_NAME}: got base_size {settings.base_size} of {samples} samples, wanted no more")
    if settings.alpha * (settings.calibration + 1) < 1 - 1e-9:
        raise DefenceError(
            f"{_NAME}: got alpha {settings.alpha} with a calibration of {settings.calibration}, which nothing falls "
            f"below, wanted at least {1 / (settings.calibration + 1):.3g}"
        )
