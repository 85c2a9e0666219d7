"""Iterative trimmed loss minimisation."""

from __future__ import annotations

import pytest
import torch
from tests.defences.dataset.conftest import LogisticFit, NetFit, accuracy, blobs, digit_sets, flipped, run_of

from taster import Batch
from taster.core.fitting import CertifiedClassifier, ResumableFit
from taster.defences import RobustTraining, trimmed_loss
from taster.errors import DefenceError, SettingError


def brute_force(samples: Batch, fit: LogisticFit, keep: float, rounds: int, seed: int) -> list[int]:
    """The same alternation, sample by sample."""
    n, kept = len(samples), list(range(len(samples)))
    for _ in range(rounds):
        model = fit(samples.select(torch.tensor(kept)), seed=seed)
        logs = model.outputs(samples.x).double()
        losses = [float(logs[i].exp().sum().log() - logs[i, int(samples.y[i])]) for i in range(n)]
        kept = sorted(sorted(range(n), key=lambda i: losses[i])[: int(keep * n)])
    return kept


def test_it_keeps_what_plain_alternation_keeps() -> None:
    clean = blobs(40, spread=0.5)
    samples, _ = flipped(clean, 0.2, 3, seed=1)
    for rounds in (1, 2, 3):
        run = run_of(samples, clean, LogisticFit(3), classes=3)
        _, weights = trimmed_loss(keep=0.75, rounds=rounds).train(run)
        assert weights is not None
        assert weights.nonzero().flatten().tolist() == brute_force(samples, LogisticFit(3), 0.75, rounds, 0)


@pytest.mark.parametrize("probabilities", [False, True])
def test_accuracy_comes_back_under_random_labels(probabilities: bool) -> None:
    train, trusted, test = digit_sets()
    samples, wrong = flipped(train, 0.3, 10)
    fit = LogisticFit(c=10.0, probabilities=probabilities)
    undefended = accuracy(fit(samples), test)
    classifier, weights = trimmed_loss(keep=0.65).train(run_of(samples, trusted, fit))
    assert weights is not None
    assert accuracy(classifier, test) > undefended + 5
    assert float((weights[wrong] == 0).float().mean()) > 0.8


def test_a_share_above_the_clean_one_finds_less() -> None:
    train, trusted, test = digit_sets()
    samples, wrong = flipped(train, 0.3, 10)
    fit = LogisticFit(c=10.0)
    found = {}
    for keep in (0.65, 0.85):
        classifier, weights = trimmed_loss(keep=keep).train(run_of(samples, trusted, fit))
        assert weights is not None
        found[keep] = float((weights[wrong] == 0).float().mean()), accuracy(classifier, test)
    assert found[0.65][0] > found[0.85][0] + 0.2
    assert found[0.65][1] > found[0.85][1] + 3


def test_keeping_all_is_ordinary_training_and_ends_at_once() -> None:
    train, trusted, test = digit_sets(200)
    fit = LogisticFit()
    classifier, weights = trimmed_loss(keep=1.0).train(run_of(train, trusted, fit))
    assert fit.fits == 1
    assert weights is not None
    assert bool((weights == 1).all())
    assert torch.equal(classifier.outputs(test.x), LogisticFit()(train).outputs(test.x))


def test_it_makes_no_more_fits_than_it_says() -> None:
    train, trusted, _ = digit_sets(200)
    samples, _ = flipped(train, 0.3, 10)
    fit = LogisticFit()
    trimmed_loss(keep=0.5, rounds=2).train(run_of(samples, trusted, fit))
    assert fit.fits == 3


def test_warm_restarts_go_on_from_the_last_model() -> None:
    train, trusted, test = digit_sets(300)
    samples, _ = flipped(train, 0.2, 10)
    fit = NetFit()
    assert isinstance(fit, ResumableFit)
    classifier, _ = trimmed_loss(keep=0.75, rounds=3, restart="warm").train(run_of(samples, trusted, fit))
    assert fit.fits == 1
    assert 0 < fit.resumed <= 3
    assert accuracy(classifier, test) > 80
    with pytest.raises(DefenceError, match="cannot go on from a model"):
        trimmed_loss(restart="warm").train(run_of(samples, trusted, LogisticFit()))


def test_shares_that_keep_too_little_are_refused() -> None:
    train, trusted, _ = digit_sets(100)
    for keep, message in ((0.005, "wanted a share that keeps some"), (0.01, "wanted at least two classes")):
        with pytest.raises(DefenceError, match=message):
            trimmed_loss(keep=keep).train(run_of(train, trusted, LogisticFit()))
    for keep in (0.0, 1.1):
        with pytest.raises(SettingError, match="keep"):
            trimmed_loss(keep=keep)


def test_what_it_trains_makes_no_certificate() -> None:
    train, trusted, _ = digit_sets(100)
    defence = trimmed_loss()
    assert isinstance(defence, RobustTraining)
    assert not isinstance(defence.train(run_of(train, trusted, LogisticFit()))[0], CertifiedClassifier)
