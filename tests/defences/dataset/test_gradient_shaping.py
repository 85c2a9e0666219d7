"""Gradient shaping: the clipped and noisy sum, its training, and the account of privacy."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from tests.defences.dataset.conftest import LogisticFit, accuracy, digit_sets, run_of
from tests.defences.dataset.test_anti_backdoor_learning import net_training

from taster import Batch, ScreenedBatch
from taster.core.training_settings import TrainingSettings
from taster.defences import gradient_shaping
from taster.defences.dataset.gradient_shaping import clipped_sum, shaped_gradient
from taster.defences.dataset.privacy import privacy_spent
from taster.errors import BatchError, DataError, DefenceError, ExtraError, LabelError, SettingError


def test_each_row_is_clipped_by_itself() -> None:
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 4, generator=g, dtype=torch.float64) * torch.tensor([0.01, 1, 2, 5, 0.1, 0])[:, None].double()
    expected = sum((row * min(1.0, 1.5 / float(row.norm())) if bool(row.any()) else row for row in rows), rows[5])
    torch.testing.assert_close(clipped_sum(rows, 1.5), expected)


def test_without_a_bound_and_noise_it_is_the_gradient() -> None:
    train, _, _ = digit_sets(20)
    learner = net_training().learner()
    found, loss = shaped_gradient(1e9, 0.0, torch.Generator())(ScreenedBatch(train), learner.state)
    expected = learner.view().loss_gradient(train)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(loss, learner.view().loss(train))


def test_no_sample_pulls_harder_than_the_bound() -> None:
    train, _, _ = digit_sets(20)
    learner = net_training().learner()
    compute = shaped_gradient(0.1, 0.0, torch.Generator())
    with_it, _ = compute(ScreenedBatch(train), learner.state)
    scaled = Batch(train.x.clone(), train.y)
    scaled.x[3] *= 1000
    without, _ = compute(ScreenedBatch(scaled), learner.state)
    apart = torch.cat([(with_it[name] - without[name]).flatten() for name in with_it]).norm()
    assert 0 < float(apart) <= 2 * 0.1 / 20 + 1e-6


def test_noise_has_its_size_and_comes_of_the_generator() -> None:
    train, _, _ = digit_sets(20)
    state = net_training().learner().state

    def flat(noise: float, seed: int) -> torch.Tensor:
        found, _ = shaped_gradient(0.5, noise, torch.Generator().manual_seed(seed))(ScreenedBatch(train), state)
        return torch.cat([value.flatten() for value in found.values()])

    drawn = flat(2.0, 1) - flat(0.0, 1)
    assert float(drawn.std()) == pytest.approx(2.0 * 0.5 / 20, rel=0.05)
    assert torch.equal(flat(2.0, 1), flat(2.0, 1))
    assert not torch.equal(flat(2.0, 1), flat(2.0, 2))


def test_it_learns_and_the_same_seed_gives_the_same_bits() -> None:
    train, trusted, test = digit_sets(300)
    run = run_of(train, trusted, net_training(), seed=4)
    model, weights = gradient_shaping(noise=0.1).train(run)
    assert weights is None
    assert accuracy(model, test) > 70
    assert torch.equal(model.outputs(test.x), gradient_shaping(noise=0.1).train(run)[0].outputs(test.x))


def test_slips_are_told() -> None:
    train, trusted, _ = digit_sets(100)
    with pytest.raises(DefenceError, match="one of a net"):
        gradient_shaping().train(run_of(train, trusted, LogisticFit()))
    with pytest.raises(DefenceError, match="a step came to nothing"):
        gradient_shaping().train(run_of(train, trusted, net_training(rate=1e38)))
    for samples, error in (
        (Batch(train.x / 0, train.y), BatchError),
        (Batch(train.x, train.y + 1), LabelError),
        (Batch(train.x, torch.zeros_like(train.y)), DataError),
    ):
        with pytest.raises(error):
            gradient_shaping().train(run_of(samples, trusted, net_training()))
    for settings in ({"max_norm": 0.0}, {"noise": -1.0}):
        with pytest.raises(SettingError):
            gradient_shaping(**settings)


def test_the_account_of_privacy() -> None:
    pytest.importorskip("dp_accounting", reason="needs the extra privacy")
    settings = TrainingSettings(epochs=5, batch_size=50)
    assert privacy_spent(settings, 1000, 0.0, 1e-5) == math.inf
    spent = [privacy_spent(settings, 1000, noise, 1e-5) for noise in (0.5, 1.0, 2.0)]
    assert spent[0] > spent[1] > spent[2] > 0
    # One step on all samples is the Gaussian mechanism: the classical bound holds for it.
    whole = privacy_spent(TrainingSettings(epochs=1, batch_size=1000), 1000, 10.0, 1e-5)
    assert whole <= math.sqrt(2 * math.log(1.25e5)) / 10


def test_slips_of_the_account_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: list[tuple[Any, ...]] = [(0, 1.0, 1e-5), (10, -1.0, 1e-5), (10, 1.0, 1.0)]
    for some in wrong:
        with pytest.raises(SettingError, match="a number between 0 and 1"):
            privacy_spent(TrainingSettings(), *some)
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ExtraError, match=r"taster\[privacy\]"):
        privacy_spent(TrainingSettings(), 10, 1.0, 1e-5)
