"""Anti-backdoor learning: its losses, what it isolates, and that the backdoor goes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.defences.dataset.conftest import LogisticFit, accuracy, digit_sets, run_of
from torch import Tensor
from torch.nn.functional import cross_entropy

from taster import Batch
from taster.core.training_settings import TrainingSettings
from taster.defences import anti_backdoor_learning
from taster.defences.dataset.anti_backdoor_learning import _apart, _around, _to_unlearn
from taster.errors import BatchError, DataError, DefenceError, LabelError, SettingError
from taster.models.mlp import mlp
from taster.offline import NetTraining


def net_training(epochs: int = 12, rate: float = 0.1) -> NetTraining:
    def make(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return mlp((1, 8, 8), 10, hidden=[32])

    return NetTraining(make, TrainingSettings(epochs=epochs, batch_size=32, learning_rate=rate))


def triggered(x: Tensor) -> Tensor:
    marked = x.clone()
    marked[:, :, :3, :3] = 1.0
    return marked


def backdoored(train: Batch, count: int) -> tuple[Batch, Tensor]:
    """Triggered samples of other classes that are called zeros, and which, bool [n]."""
    places = (train.y != 0).nonzero().flatten()[:count]
    x, y = train.x.clone(), train.y.clone()
    x[places], y[places] = triggered(x[places]), 0
    return Batch(x, y), torch.zeros(len(y), dtype=torch.bool).index_fill(0, places, True)


def asr(model: Any, test: Batch) -> float:
    others = test.y != 0
    return 100 * float((model.outputs(triggered(test.x[others])).argmax(1) == 0).float().mean())


def test_local_ascent_pushes_each_sample_to_gamma() -> None:
    outputs = torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 0, 1])
    losses = cross_entropy(outputs, y, reduction="none")
    low, high, _ = losses.tolist()
    assert low < 0.5 < high
    (found,) = torch.autograd.grad(_around(0.5, "sample")(outputs, y), outputs)
    (plain,) = torch.autograd.grad(losses.mean(), outputs)
    torch.testing.assert_close(found, plain * torch.tensor([[-1.0], [1.0], [1.0]], dtype=torch.float64))
    value = _around(0.5, "sample")(outputs, y).item()
    assert value == pytest.approx(sum(math.copysign(1, v - 0.5) * v for v in losses.tolist()) / 3)


def test_local_ascent_of_batches_turns_with_their_mean() -> None:
    outputs, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    mean = float(cross_entropy(outputs, y))
    assert float(_around(mean - 0.1, "batch")(outputs, y)) == pytest.approx(mean)
    assert float(_around(mean + 0.1, "batch")(outputs, y)) == pytest.approx(-mean)


def test_global_ascent_is_the_difference_of_two_means() -> None:
    g = torch.Generator().manual_seed(0)
    outputs, y = torch.randn(5, 3, generator=g), torch.tensor([0, 1, 2, 0, 2])
    marked = torch.cat([y[:3], _to_unlearn(Batch(outputs[3:], y[3:])).y])
    expected = cross_entropy(outputs[:3], y[:3]) - cross_entropy(outputs[3:], y[3:])
    torch.testing.assert_close(_apart("ascent")(outputs, marked), expected)
    right = outputs[3:].double().softmax(1).gather(1, y[3:, None])
    other = cross_entropy(outputs[:3], y[:3]).double() - (1 - right).log().mean()
    torch.testing.assert_close(_apart("unlikelihood")(outputs.double(), marked), other, atol=1e-6, rtol=1e-6)
    # Where the model is sure, ascent has no gradient left in float32, and unlikelihood has.
    sure = torch.tensor([[0.0, 0.0], [40.0, 0.0]], requires_grad=True)
    for by, size in (("ascent", 0.0), ("unlikelihood", 1.0)):
        (found,) = torch.autograd.grad(_apart(by)(sure, torch.tensor([0, -1])), sure)  # type: ignore[arg-type]
        assert float(found[1].abs().max()) == pytest.approx(size)


def test_the_backdoor_is_isolated_and_unlearned() -> None:
    train, trusted, test = digit_sets(800, seed=2)
    samples, poisoned = backdoored(train, 80)
    fit = net_training()
    plain = fit(samples, seed=1)
    assert asr(plain, test) > 90
    defence = anti_backdoor_learning(isolate=0.04, isolation=0.1, unlearning_rate=0.03)
    model, weights = defence.train(run_of(samples, trusted, fit, seed=1))
    assert weights is not None
    isolated = weights == 0
    assert int(isolated.sum()) == 32
    assert float(poisoned[isolated].float().mean()) > 0.9
    assert asr(model, test) < 10
    assert accuracy(model, test) > accuracy(plain, test) - 12


def test_ascent_ends_when_the_isolated_samples_are_guessed() -> None:
    train, trusted, _ = digit_sets(300)
    run = run_of(train, trusted, net_training(), seed=1)
    settings: dict[str, Any] = {"isolate": 0.1, "unlearn": "ascent", "unlearning": 0.9}
    model, weights = anti_backdoor_learning(**settings, unlearning_rate=1.0).train(run)
    assert weights is not None
    isolated = train.select(weights == 0)
    assert float(cross_entropy(model.outputs(isolated.x), isolated.y)) >= math.log(10)
    assert accuracy(model, train.select(weights > 0)) > 30


def test_the_same_seed_gives_the_same_bits_and_leaves_torch_alone() -> None:
    train, trusted, test = digit_sets(200)
    before = train.x.clone(), train.y.clone()
    found = []
    for own in (1, 2):
        torch.manual_seed(own)
        state = torch.get_rng_state()
        run = run_of(train, trusted, net_training(epochs=3), seed=5)
        model, weights = anti_backdoor_learning(isolate=0.1).train(run)
        assert torch.equal(torch.get_rng_state(), state)
        found.append((model.outputs(test.x), weights))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(train.x, before[0])
    assert torch.equal(train.y, before[1])


def test_samples_that_cannot_be_trained_on_are_refused() -> None:
    train, trusted, _ = digit_sets(100)
    for samples, error in (
        (Batch(train.x / 0, train.y), BatchError),
        (Batch(train.x, train.y + 1), LabelError),
        (Batch(train.x, torch.zeros_like(train.y)), DataError),
    ):
        with pytest.raises(error):
            anti_backdoor_learning().train(run_of(samples, trusted, net_training()))


def test_slips_are_told() -> None:
    train, trusted, _ = digit_sets(100)
    with pytest.raises(DefenceError, match="one of a net"):
        anti_backdoor_learning().train(run_of(train, trusted, LogisticFit()))
    with pytest.raises(DefenceError, match="wanted at least 2"):
        anti_backdoor_learning().train(run_of(train, trusted, net_training(epochs=1)))
    with pytest.raises(DefenceError, match=r"isolate 0.001 of 100 samples, which is none, wanted at least 0.01"):
        anti_backdoor_learning(isolate=0.001).train(run_of(train, trusted, net_training()))
    with pytest.raises(DefenceError, match="a step came to nothing"):
        anti_backdoor_learning().train(run_of(train, trusted, net_training(rate=1e30)))
    settings: list[dict[str, Any]] = [{"gamma": -1.0}, {"isolate": 1.0}, {"isolation": 0.0}, {"unlearning_rate": 0.0}]
    for some in settings:
        with pytest.raises(SettingError):
            anti_backdoor_learning(**some)
