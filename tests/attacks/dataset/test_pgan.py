"""pGAN: the objectives and their derivatives, what each α comes to, budgets, determinism, messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster import Batch
from taster.attacks import DATASET_ATTACKS, DatasetKnowledge, pgan
from taster.attacks.dataset.pgan import PGANSettings, SampleGenerator, _mixed, judgement, play, reward
from taster.core.fitting import Fit
from taster.core.learner import Learner
from taster.core.training_settings import TrainingSettings
from taster.core.view import View
from taster.errors import AttackError, SettingError
from taster.models.mlp import mlp
from taster.offline import EstimatorTraining, NetTraining


def images(n: int, seed: int) -> Batch:
    """Images [n, 1, 4, 4]; the class 0 is dark, 1 half, 2 bright."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return Batch((0.1 + 0.35 * y.float())[:, None, None, None] + 0.1 * torch.rand(n, 1, 4, 4, generator=g), y)


def make_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return mlp((1, 4, 4), 3, hidden=[8])


FIT = NetTraining(make_net, TrainingSettings(epochs=5, batch_size=16, learning_rate=0.1))


def knows(*fits: Fit, own: Batch | None = None, seed: int = 3) -> DatasetKnowledge:
    generator = torch.Generator().manual_seed(seed)
    return DatasetKnowledge(3, images(60, 1) if own is None else own, fits or (FIT,), generator)


def settings(**changes: Any) -> PGANSettings:
    given = {"poison_fraction": 0.2, "target_class": 1, "steps": 5, "hidden": [12], "latent": 4, **changes}
    return PGANSettings(**given)


def double_view() -> View:
    net = make_net(4).double()
    return Learner(net, torch.optim.SGD(net.parameters(), lr=0.1), cross_entropy).view()


def test_poison_is_inserted_under_one_label_and_the_same_seed_gives_the_same_bits() -> None:
    clean = images(90, 0)
    state = torch.get_rng_state()
    found, again = (pgan(game=settings())(clean, knows()) for _ in range(2))
    other = pgan(game=settings())(clean, knows(seed=4))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(found.samples.x, again.samples.x)
    assert not torch.equal(found.samples.x[90:], other.samples.x[90:])
    assert torch.equal(found.samples.x[:90], clean.x)
    assert torch.equal(found.samples.y[:90], clean.y)
    assert len(found.samples) == 108
    assert found.poisoned.nonzero().flatten().tolist() == list(range(90, 108))
    assert bool((found.samples.y[90:] == 1).all())
    assert 0 <= float(found.samples.x.min()) <= float(found.samples.x.max()) <= 1


def test_the_objectives_are_those_of_the_game() -> None:
    genuine, made = torch.tensor([[1.5], [-0.5]]).double(), torch.tensor([[0.3], [-2.0]]).double()
    value = genuine.sigmoid().log().mean() + (1 - made.sigmoid()).log().mean()
    torch.testing.assert_close(judgement(genuine, made), -value)
    view, x, y = double_view(), images(2, 0).x.double(), torch.tensor([1, 1])
    harm = cross_entropy(view.outputs(x), y)
    expected = -0.3 * made.sigmoid().log().mean() - 0.7 * harm
    torch.testing.assert_close(reward(0.3, made, [view, view], x, y).detach(), expected)


def test_the_gradient_in_the_generators_weights_is_that_of_central_differences() -> None:
    torch.manual_seed(0)
    generator, judge = SampleGenerator((1, 4, 4), 3, [5], 0.0, 1.0).double(), mlp((1, 4, 4), 1, hidden=[6]).double()
    view, y = double_view(), torch.tensor([1, 1, 1, 1])
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def value() -> Tensor:
        made = generator(z)
        return reward(0.4, judge(made), [view], made, y)

    torch.autograd.backward(value())
    params, step = dict(generator.named_parameters()), 1e-6
    for name, place in [("layers.1.weight", (2, 1)), ("layers.3.weight", (7, 0)), ("layers.3.bias", (5,))]:
        slope = params[name].grad
        assert slope is not None
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                params[name][place] += sign * step
                ends.append(value().item())
                params[name][place] -= sign * step
        assert float(slope[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-9)


def test_the_classifiers_batches_have_the_share_of_poison() -> None:
    own, made = images(60, 1), torch.full((10, 1, 4, 4), 7.0)
    for size, share, count in [(16, 0.25, 4), (16, 0.01, 1), (16, 0.99, 10), (1, 0.5, 1)]:
        found = _mixed(own, made, torch.ones(10, dtype=torch.int64), size, share, torch.Generator().manual_seed(0))
        poison = (found.x == 7).flatten(1).all(1)
        assert int(poison.sum()) == count
        assert bool((found.y[poison] == 1).all())
        assert len(found) == max(size, count + 1)


def test_the_share_is_that_of_the_poisoned_set_unless_it_is_given() -> None:
    assert settings(poison_fraction=0.25).share == pytest.approx(0.2)
    assert settings(mixture=0.4).share == 0.4


@pytest.mark.effect
def test_one_pleases_the_discriminator_and_zero_leaves_the_class() -> None:
    own = images(60, 1)
    middle, apart = own.x[own.y == 1].mean(), {}
    for alpha in (0.0, 1.0):
        made = play(settings(alpha=alpha, steps=250, gan_learning_rate=3e-3), knows())(torch.randn(50, 4))
        apart[alpha] = abs(float(made.detach().mean() - middle))
    assert apart[1.0] < 0.1
    assert apart[0.0] > apart[1.0] + 0.1


def test_what_cannot_be_is_told() -> None:
    clean = images(30, 0)
    with pytest.raises(AttackError, match="target_class: got 3, wanted 0 to 2"):
        pgan(game=settings(target_class=3))(clean, knows())
    for kept, count in ((1, 20), (0, 0)):
        own = images(60, 1).select(images(60, 1).y == kept)
        with pytest.raises(AttackError, match=f"pgan: got {count} own samples of class 1 among 20"):
            pgan(game=settings())(clean, knows(own=own))
    with pytest.raises(AttackError, match="pgan: got the training of an estimator"):
        pgan(game=settings())(clean, knows(EstimatorTraining(lambda: None, 3)))


@pytest.mark.parametrize("changes", [{"alpha": 1.5}, {"mixture": 1.0}, {"steps": 0}, {"hidden": [0]}], ids=str)
def test_settings_out_of_bounds_are_told(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(changes))):
        DATASET_ATTACKS["pgan"](game=changes)
