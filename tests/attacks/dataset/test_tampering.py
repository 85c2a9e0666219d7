"""p-tampering and p-resetting: right labels always, the biases of the theorems, and harm beyond the control's."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from taster import Batch
from taster.attacks import DATASET_ATTACKS, DatasetAttack, DatasetKnowledge, TamperingSettings
from taster.attacks.tampering import Choice, resampling_probability, reset_probability
from taster.data import fit_numbers, load_table
from taster.errors import AttackError, SettingError
from taster.offline import EstimatorTraining


class Centroids:
    """Classifies by the nearest mean, fast to train."""

    def __init__(self, samples: Batch) -> None:
        found = [samples.x[samples.y == c] for c in range(2)]
        self.means = torch.stack([x.mean(0) if len(x) else torch.full_like(samples.x[0], 0.5) for x in found])

    def outputs(self, x: Tensor) -> Tensor:
        return -20 * (x[:, None] - self.means).square().sum(2)


def fit_centroids(samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> Centroids:
    return Centroids(samples)


def right(x: Tensor) -> Tensor:
    """The label that samples have, by a rule."""
    return (x[:, 0] > 0.5).long()


def world(n: int, seed: int) -> Batch:
    x = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))
    return Batch(x, right(x))


def knowledge(seed: int, own: Batch | None = None, fit: Any = fit_centroids) -> DatasetKnowledge:
    return DatasetKnowledge(2, own or world(60, 1000 + seed), (fit,), torch.Generator().manual_seed(seed))


def made(name: str, **settings: Any) -> DatasetAttack:
    return DATASET_ATTACKS[name](tampering=TamperingSettings(**settings))


@pytest.mark.parametrize("probability", [resampling_probability, reset_probability])
@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_the_bias_is_that_of_the_theorem(probability: Callable[[float, float, float], float], p: float) -> None:
    values = torch.rand(2**4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = dict(zip(itertools.product((0, 1), repeat=4), values.tolist(), strict=True))
    one = 0.3  # the probability of a 1, in each of four places

    def mean(prefix: tuple[int, ...]) -> float:
        if len(prefix) == 4:
            return f[prefix]
        return one * mean((*prefix, 1)) + (1 - one) * mean((*prefix, 0))

    def attacked(prefix: tuple[int, ...]) -> float:
        if len(prefix) == 4:
            return f[prefix]
        honest = (1 - one, one)
        away = [probability(mean((*prefix, d)), mean(prefix), p) for d in (0, 1)]
        assert all(0 <= q <= 1 for q in away)
        lost = sum(h * q for h, q in zip(honest, away, strict=True))
        if probability is reset_probability:
            chance = [(1 - p) * h + p * (h * (1 - q) + lost * h) for h, q in zip(honest, away, strict=True)]
        else:
            chance = [(1 - p) * h + p * h * (1 - q) / (1 - lost) for h, q in zip(honest, away, strict=True)]
        assert sum(chance) == pytest.approx(1)
        return sum(c * attacked((*prefix, d)) for d, c in enumerate(chance))

    mu = mean(())
    nu = sum(one ** sum(d) * (1 - one) ** (4 - sum(d)) * (value - mu) ** 2 for d, value in f.items())
    offset = 1 if probability is reset_probability else 1 - p
    assert attacked(()) == pytest.approx(mu + p * nu / (offset + p * mu), abs=1e-12)


@pytest.mark.parametrize("name", ["p_tampering", "p_resetting"])
@pytest.mark.parametrize("choice", ["gain", "rejection", "loss", "random"])
@pytest.mark.parametrize("any_class", [False, True])
def test_labels_are_right_and_samples_are_own_ones(name: str, choice: Choice, any_class: bool) -> None:
    clean, known = world(30, 0), knowledge(0)
    attack = made(name, poison_fraction=0.5, choice=choice, any_class=any_class, draws=4)
    found = attack(clean, known)
    samples, poisoned = found.samples, found.poisoned
    assert torch.equal(samples.y, right(samples.x))
    assert 0 < int(poisoned.sum()) <= 15
    own = {tuple(row) for row in known.own.x.tolist()}
    assert all(tuple(row) in own for row in samples.x[poisoned].tolist())
    assert torch.equal(samples.x[~poisoned], clean.x[~poisoned])
    assert any_class or torch.equal(samples.y, clean.y)
    assert attack.budget.labels is any_class
    again = attack(clean, knowledge(0))
    assert torch.equal(again.samples.x, samples.x)


@pytest.mark.parametrize(("name", "least"), [("p_tampering", 0.05), ("p_resetting", 0.02)])
def test_the_target_is_worse_off_than_by_chance(name: str, least: float) -> None:
    rises: dict[str, list[float]] = {"random": [], "gain": []}
    for seed in range(12):
        clean, own = world(30, seed), world(80, 1000 + seed)
        own.x[0], own.y[0] = torch.tensor([0.48, 0.5]), 0
        for choice, found in rises.items():
            attack = made(name, poison_fraction=0.5, choice=choice, draws=6, target=0, target_class=1)
            known = knowledge(seed, own)
            before, after = (fit_centroids(s) for s in (clean, attack(clean, known).samples))
            wanted = attack.target(known)  # type: ignore[misc]
            assert wanted.y.tolist() == [1]
            rises_by = after.outputs(wanted.x).softmax(1)[0, 1] - before.outputs(wanted.x).softmax(1)[0, 1]
            found.append(float(rises_by))
    assert statistics.fmean(rises["gain"]) > statistics.fmean(rises["random"]) + least
    assert statistics.fmean(rises["gain"]) > least


def one_sample_world(harmless: int, harmful: int) -> Batch:
    """Own samples of one class: two kinds to learn from."""
    return Batch(
        torch.tensor([[0.2]] * harmless + [[0.8]] * harmful), torch.zeros(harmless + harmful, dtype=torch.int64)
    )


class Told:
    """A model of one sample, wrong of all with a probability of x."""

    def __init__(self, samples: Batch) -> None:
        self.wrong = samples.x[0]

    def outputs(self, x: Tensor) -> Tensor:
        return torch.cat([1 - self.wrong, self.wrong]).log().expand(len(x), 2)


def fit_told(samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> Told:
    return Told(samples)


def test_rejection_accepts_samples_in_proportion_to_the_error() -> None:
    clean, own = Batch(torch.tensor([[0.5]]), torch.tensor([0])), one_sample_world(100, 100)
    attack = made("p_tampering", poison_fraction=1.0, choice="rejection", draws=30)
    known = knowledge(0, own, fit_told)
    found = [float(attack(clean, known).samples.x) for _ in range(150)]
    # With p = 1 a draw is accepted with the probability of its error: 0.8 against 0.2.
    assert statistics.fmean(x > 0.5 for x in found) == pytest.approx(0.8, abs=0.1)
    resets = made("p_resetting", poison_fraction=1.0, choice="rejection", completions=8)
    for honest in (0.2, 0.8):
        clean = Batch(torch.tensor([[honest]]), torch.tensor([0]))
        kept = [float(resets(clean, known).samples.x) == pytest.approx(honest) for _ in range(150)]
        # It is reset with probability (1 − f) / (1 + μ), μ = 0.5, and half of the new ones are as it was.
        assert statistics.fmean(kept) == pytest.approx(1 - (1 - honest) / 1.5 / 2, abs=0.1)


def test_a_tampered_filter_of_spam_errs_more_than_by_chance(data_folder: Path) -> None:
    table = load_table(data_folder / "spam" / "spambase.csv").without_repeats()
    fit = EstimatorTraining(lambda: LogisticRegression(max_iter=300), 2)
    errors: dict[str, list[float]] = {"random": [], "loss": []}
    for seed in range(3):
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
        data = fit_numbers(table, order[:300])
        clean, own, test = (data.batch(rows) for rows in (order[:300], order[300:800], order[800:1800]))
        for choice, found in errors.items():
            attack = made("p_tampering", poison_fraction=0.5, choice=choice, draws=20)
            known = knowledge(seed, own, fit)
            model = fit(attack(clean, known).samples)
            found.append(100 * float((model.outputs(test.x).argmax(1) != test.y).float().mean()))
    assert min(a - b for a, b in zip(errors["loss"], errors["random"], strict=True)) > 2


def test_what_cannot_be_tampered_with_is_told() -> None:
    clean = world(20, 0)
    for settings in ({"target": 0}, {"target_class": 1}):
        with pytest.raises(AttackError, match="wanted both of them or neither"):
            TamperingSettings(choice="gain", **settings)
    with pytest.raises(AttackError, match='got "loss" with a target'):
        TamperingSettings(target=0, target_class=1)
    own = knowledge(0).own
    first = int(own.y[0])
    for target, label, message in (
        (60, 0, "target: got 60"),
        (0, 2, "for class 2"),
        (0, first, "the class of the target"),
    ):
        attack = made("p_tampering", poison_fraction=0.5, choice="gain", target=target, target_class=label)
        with pytest.raises(AttackError, match=message):
            attack(clean, knowledge(0))
        with pytest.raises(AttackError, match=message):
            attack.target(knowledge(0))  # type: ignore[misc]
    with pytest.raises(AttackError, match=r"no sample of class \d to draw from"):
        made("p_tampering", poison_fraction=1.0, choice="random")(clean, knowledge(0, own.select(own.y == 0)))
    with pytest.raises(AttackError, match="got 1 own samples, wanted more"):
        made("p_resetting", poison_fraction=1.0, choice="loss")(clean, knowledge(0, own.select(slice(0, 1))))
    for wrong in ({"draws": 0}, {"completions": 0}, {"choice": "best"}, {"poison_fraction": 0.0}):
        with pytest.raises(SettingError):
            made("p_tampering", **wrong)
