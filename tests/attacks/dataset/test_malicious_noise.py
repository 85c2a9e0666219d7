"""Malicious noise: two labels as frequent in the part that is disputed, and the line over which nothing is learned."""

from __future__ import annotations

import statistics

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from taster import Batch
from taster.attacks import (
    DATASET_ATTACKS,
    DatasetKnowledge,
    DatasetPoisonSettings,
    indistinguishable_error,
    malicious_noise_limit,
)
from taster.errors import AttackError, SettingError
from taster.offline import EstimatorTraining

FIT = EstimatorTraining(lambda: LogisticRegression(C=1000.0, max_iter=200), 2)


def line(n: int, seed: int) -> Batch:
    """Two classes that a line parts without an error."""
    x = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))
    return Batch(x, (x.sum(1) > 1).long())


def knowledge(seed: int, own: Batch | None = None) -> DatasetKnowledge:
    return DatasetKnowledge(2, own or line(1000, 1000 + seed), (FIT,), torch.Generator().manual_seed(seed))


def noisy(clean: Batch, seed: int, share: float, own: Batch | None = None, **settings: object) -> Batch:
    attack = DATASET_ATTACKS["malicious_noise"](poisoning=DatasetPoisonSettings(poison_fraction=share), **settings)
    found = attack(clean, knowledge(seed, own))
    assert int(found.poisoned.sum()) == int(share * len(clean) + 1e-9)
    assert len(found.samples) == len(clean)
    return found.samples


def error_of(samples: Batch, seed: int) -> float:
    test = line(2000, 3000 + seed)
    return float((FIT(samples).outputs(test.x).argmax(1) != test.y).float().mean())


def test_the_limit_is_the_published_line_and_its_inverse() -> None:
    assert malicious_noise_limit(0.25) == pytest.approx(0.2)
    assert malicious_noise_limit(1.0) == 0.5
    for error in (0.01, 0.2, 0.9):
        assert indistinguishable_error(malicious_noise_limit(error)) == pytest.approx(error)
    assert indistinguishable_error(0.5) == indistinguishable_error(0.8) == 1.0
    for wrong in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(AttackError, match="wanted over 0 and at most 1"):
            malicious_noise_limit(wrong)
        with pytest.raises(AttackError, match="wanted over 0 and at most 1"):
            indistinguishable_error(wrong)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_in_the_disputed_part_both_labels_are_as_frequent(share: float) -> None:
    clean = line(4000, 0)
    samples = noisy(clean, 0, share, line(8000, 7), source_class=0, target_class=1)
    wrong = (samples.x.sum(1) > 1).long() != samples.y
    assert int(wrong.sum()) == round(share * 4000)
    assert bool((samples.y[wrong] == 1).all())
    disputed = (samples.y == 0) & (samples.x.sum(1) > float(samples.x[wrong].sum(1).min()))
    assert int(disputed.sum()) == pytest.approx(share * 4000, rel=0.15)


def test_the_pair_of_classes_is_the_one_that_is_hardest_to_tell_apart() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 3
    means = torch.tensor([[0.1, 0.5], [0.6, 0.5], [0.75, 0.5]])
    x = (means[y] + 0.06 * torch.randn(600, 2, generator=g)).clamp(0, 1)
    fit = EstimatorTraining(lambda: LogisticRegression(C=100.0), 3)
    known = DatasetKnowledge(3, Batch(x[300:], y[300:]), (fit,), g)
    found = DATASET_ATTACKS["malicious_noise"]()(Batch(x[:300], y[:300]), known)
    shown = found.samples.select(found.poisoned)
    assert set(shown.y.tolist()) in ({1}, {2})
    assert float(shown.x[:, 0].min()) > 0.4


def test_learning_goes_wrong_by_the_line_and_random_noise_does_not() -> None:
    share = 0.2
    errors: dict[str, list[float]] = {"pairing": [], "random": []}
    for seed in range(3):
        clean = line(1000, seed)
        assert error_of(clean, seed) < 0.02
        for strategy, found in errors.items():
            found.append(error_of(noisy(clean, seed, share, strategy=strategy), seed))
    # Undecided between two concepts that differ by 0.25: half of that is what a coin would cost.
    assert statistics.fmean(errors["pairing"]) > indistinguishable_error(share) / 4
    assert min(a - b for a, b in zip(errors["pairing"], errors["random"], strict=True)) > 0.05


def test_random_noise_has_wrong_labels_and_the_same_seed_the_same_poison() -> None:
    clean = line(200, 0)
    for strategy in ("pairing", "random"):
        samples, again = (noisy(clean, 0, 0.3, strategy=strategy) for _ in range(2))
        assert torch.equal(samples.x, again.x)
        assert int(((samples.x.sum(1) > 1).long() != samples.y).sum()) == 60
    with pytest.raises(AttackError, match="which is no sample of 200"):
        noisy(clean, 0, 0.004)


def test_what_cannot_be_shown_is_told() -> None:
    make, clean = DATASET_ATTACKS["malicious_noise"], line(100, 0)
    for settings in ({"source_class": 0}, {"target_class": 1}, {"source_class": 1, "target_class": 1}):
        with pytest.raises(AttackError, match="wanted two or neither"):
            make(**settings)
    with pytest.raises(AttackError, match="got source_class 0 and target_class 2, wanted two of 2 classes"):
        make(source_class=0, target_class=2)(clean, knowledge(0))
    own = line(100, 5)
    with pytest.raises(AttackError, match=r"has samples of: \[1\]"):
        make(source_class=0, target_class=1)(clean, knowledge(0, own.select(own.y == 1)))
    for wrong in ({"strategy": "none"}, {"source_class": -1, "target_class": 0}):
        with pytest.raises(SettingError):
            make(**wrong)
