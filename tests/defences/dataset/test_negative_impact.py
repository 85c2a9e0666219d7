"""Reject on negative impact."""

from __future__ import annotations

import pytest
import torch
from tests.defences.dataset.conftest import accuracy, blobs, defended, flipped, run_of
from torch import Tensor

from taster import Batch
from taster.defences import reject_on_negative_impact
from taster.defences.dataset.negative_impact import even_draw, group_impacts, random_groups
from taster.errors import BatchError, DefenceError, SettingError


class Centroids:
    """Nearest class mean: exact, cheap, and easily led astray. Counts its fits."""

    def __init__(self, classes: int = 3) -> None:
        self.classes, self.fits = classes, 0

    def __call__(self, samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> Centroids.Model:
        self.fits += 1
        used = torch.ones(len(samples)) if weights is None else weights
        means = torch.full((self.classes, samples.x.shape[1]), 1e6)
        for label in torch.unique(samples.y[used > 0]).tolist():
            means[label] = samples.x[(samples.y == label) & (used > 0)].mean(0)
        return self.Model(means)

    class Model:
        def __init__(self, means: Tensor) -> None:
            self.means = means

        def outputs(self, x: Tensor) -> Tensor:
            return -torch.cdist(x, self.means)


def test_impacts_are_what_trying_each_group_out_shows() -> None:
    base, validation = blobs(6, seed=1), blobs(40, seed=2, spread=0.6)
    samples, _ = flipped(blobs(30, seed=3), 0.5, 3)
    groups = [samples.select(slice(i, i + 3)) for i in range(0, 30, 3)]
    found = group_impacts(Centroids(), base, groups, validation, classes=3, seed=0)
    expected = []
    for group in groups:
        hits = {}
        for name, pairs in (("without", [base]), ("with", [base, group])):
            points = [(x.tolist(), int(y)) for part in pairs for x, y in zip(part.x, part.y, strict=True)]
            means = {}
            for label in range(3):
                own = [x for x, y in points if y == label]
                means[label] = [sum(x[j] for x in own) / len(own) for j in range(2)]
            hits[name] = 0
            for x, y in zip(validation.x.tolist(), validation.y.tolist(), strict=True):
                squares = [sum((x[j] - means[label][j]) ** 2 for j in range(2)) for label in range(3)]
                hits[name] += squares.index(min(squares)) == y
        expected.append((hits["with"] - hits["without"]) / 40)
    assert found.tolist() == pytest.approx(expected)
    assert min(expected) < 0 < max(expected)


def test_every_sample_is_in_one_group() -> None:
    groups = random_groups(11, 3, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(groups).tolist()) == list(range(11))
    assert [len(group) for group in groups] == [3, 3, 3, 2]
    other = random_groups(11, 3, torch.Generator().manual_seed(1))
    assert [group.tolist() for group in groups] != [group.tolist() for group in other]


def test_bases_are_drawn_evenly_and_at_random() -> None:
    y = torch.tensor([0] * 50 + [1] * 5 + [2] * 1)
    draws = [even_draw(y, 10, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert all(torch.bincount(y[drawn], minlength=3).tolist() in ([5, 4, 1], [4, 5, 1]) for drawn in draws)
    assert all(len(set(drawn.tolist())) == 10 for drawn in draws)
    assert len({tuple(drawn.tolist()) for drawn in draws}) == 20


@pytest.mark.parametrize("base", ["trusted", "samples"])
def test_it_rejects_samples_that_do_harm(base: str) -> None:
    clean = blobs(90, seed=5)
    # Far on the other side of the plane: each drags the mean of its class along.
    harmful = torch.arange(90) % 9 == 0
    samples = Batch(clean.x.where(~harmful[:, None], -20 * clean.x), clean.y)
    trusted, test = blobs(210, seed=6), blobs(300, seed=7)
    run = run_of(samples, trusted, Centroids(), 3)
    classifier, weights = defended(reject_on_negative_impact(base=base, base_size=9), run)  # type: ignore[arg-type]
    assert weights is not None
    assert bool((weights[harmful] == 0).all())
    assert float((weights[~harmful] == 0).float().mean()) < 0.1
    assert accuracy(classifier, test) > accuracy(Centroids()(samples), test) + 10


def test_honest_samples_are_lost_at_the_rate_that_was_asked_for() -> None:
    lost = []
    for seed in range(4):
        run = run_of(blobs(60, seed=seed, spread=0.8), blobs(200, seed=50 + seed, spread=0.8), Centroids(), 3, seed)
        _, weights = defended(reject_on_negative_impact(alpha=0.1, trials=3), run)
        assert weights is not None
        lost.append(float((weights == 0).float().mean()))
    assert 0 < sum(lost) / 4 < 0.15


def test_fits_are_as_many_as_it_says_and_groups_grow_to_stay_within_them() -> None:
    samples, trusted = blobs(90), blobs(200, seed=1)
    fit = Centroids()
    defended(reject_on_negative_impact(trials=2, calibration=30), run_of(samples, trusted, fit, 3))
    assert fit.fits == 2 * (1 + 90 + 30) + 1
    fit = Centroids()
    defended(reject_on_negative_impact(trials=2, calibration=30, max_fits=152), run_of(samples, trusted, fit, 3))
    assert fit.fits == 2 * (1 + 45 + 30) + 1  # pairs
    with pytest.raises(DefenceError, match="got 90 groups and so 242 fits, wanted at most 200"):
        defended(
            reject_on_negative_impact(trials=2, calibration=30, max_fits=200, group_size=1),
            run_of(samples, trusted, Centroids(), 3),
        )


def test_too_few_trusted_samples_are_refused() -> None:
    samples = blobs(60)
    cases = [
        (blobs(2), {}, BatchError, "2 trusted samples"),
        (blobs(90), {}, DefenceError, "30 trusted samples for calibration"),
        (
            blobs(90),
            {"group_size": 16},
            DefenceError,
            "30 trusted samples for calibration, .* wanted 32 for groups of 16",
        ),
        (blobs(60), {"calibration": 20, "base_size": 30}, DefenceError, "10 trusted samples for validation"),
        (blobs(200), {"alpha": 0.01}, DefenceError, "nothing falls below, wanted at least 0.0196"),
        (blobs(200), {"base": "samples", "base_size": 61}, DefenceError, "base_size 61 of 60"),
    ]
    for trusted, settings, error, message in cases:
        with pytest.raises(error, match=message):
            defended(reject_on_negative_impact(**settings), run_of(samples, trusted, Centroids(), 3))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="trials"):
        reject_on_negative_impact(trials=0)
