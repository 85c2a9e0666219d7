"""MetaPoison: steps ahead by hand and by finite differences, staggered nets, budgets, determinism, messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.targeted.quarters import CLEAN, OWN, SCRATCH, knowledge, make_net
from torch import nn
from torch.nn.functional import cross_entropy

from taster.attacks import DATASET_ATTACKS, DatasetAttack
from taster.attacks.surrogate import Surrogate
from taster.attacks.targeted.look_ahead import LookAhead
from taster.attacks.targeted.targets import TargetSettings, draw_targets
from taster.core.batch import Batch
from taster.core.training_settings import TrainingSettings
from taster.errors import AttackError, SettingError
from taster.experiments.recipes.registry import find_factory
from taster.offline import EstimatorTraining, NetTraining

FAST = NetTraining(make_net, TrainingSettings(epochs=4, batch_size=20, learning_rate=0.1), seed=5)


def make(**settings: Any) -> DatasetAttack:
    given = {"poison_fraction": 0.1, "epsilon": 0.2, "steps": 3, "nets": 2, **settings}
    made = find_factory("attack", "metapoison").make({}, given)
    assert isinstance(made, DatasetAttack)
    return made


def double(batch: Batch) -> Batch:
    return Batch(batch.x.double(), batch.y)


def exact_net() -> NetTraining:
    return NetTraining(lambda seed: make_net(seed).double(), SCRATCH.settings, seed=5)


POISON, WANTED = double(CLEAN.select(slice(0, 4))), Batch(OWN.x[:2].double(), torch.tensor([1, 1]))
BATCHES = [double(CLEAN.select(slice(10 * i, 10 * i + 10))) for i in range(1, 4)]


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_the_steps_ahead_are_those_of_plain_gradient_descent(batch_norm: Any) -> None:
    view = exact_net()(double(CLEAN))
    ahead = LookAhead(view, 0.3, 0.05, batch_norm)
    net = make_net().double()
    net.load_state_dict({**net.state_dict(), **view.params, **view.buffers})
    net.train(batch_norm == "train")
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for batch in BATCHES:
        each = cross_entropy(net(torch.cat([batch.x, POISON.x])), torch.cat([batch.y, POISON.y]), reduction="none")
        optimizer.zero_grad()
        (0.7 * each[:10].mean() + 0.3 * each[10:].mean()).backward()
        optimizer.step()
    found = ahead.params(BATCHES, POISON)
    for name, value in net.named_parameters():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_the_gradient_through_the_steps_is_that_of_central_differences(steps: int, batch_norm: Any) -> None:
    ahead = LookAhead(exact_net()(double(CLEAN)), 0.3, 0.2, batch_norm)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return ahead.adversarial_loss(BATCHES[:steps], Batch(x, POISON.y), WANTED, 100.0)

    at = POISON.x.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(at), at)
    assert float(found.abs().max()) > 0
    step = 1e-5
    for place in [(0, 0, 1, 1), (1, 0, 4, 2), (3, 0, 0, 5)]:
        there, back = POISON.x.clone(), POISON.x.clone()
        there[place] += step
        back[place] -= step
        slope = float((loss(there) - loss(back)).detach() / (2 * step))
        assert float(found[place]) == pytest.approx(slope, rel=1e-5, abs=1e-10)


def test_beyond_the_confidence_nothing_more_is_wanted() -> None:
    ahead = LookAhead(exact_net()(double(CLEAN)), 0.3, 0.05)
    own = double(OWN.select(slice(0, 6)))  # known to the net by their own classes
    free = float(ahead.adversarial_loss(BATCHES, POISON, own, 100.0).detach())
    assert free < -0.5
    assert float(ahead.adversarial_loss(BATCHES, POISON, own, 0.0).detach()) > free
    one = Batch(own.x[:1], own.y[:1])
    assert float(ahead.adversarial_loss(BATCHES, POISON, one, 0.1).detach()) == pytest.approx(-0.1)


def test_images_of_the_steps_are_augmented() -> None:
    view = exact_net()(double(CLEAN))
    plain = LookAhead(view, 0.3, 0.05).params(BATCHES, POISON)
    same = LookAhead(view, 0.3, 0.05, augment=lambda x: x).params(BATCHES, POISON)
    other = LookAhead(view, 0.3, 0.05, augment=lambda x: x.flip(3)).params(BATCHES, POISON)
    assert torch.equal(plain["0.weight"], same["0.weight"])
    assert not torch.equal(plain["0.weight"], other["0.weight"])


@pytest.mark.parametrize("settings", [{}, {"targets": 2, "look_ahead": 1}, {"batch_norm": "eval"}], ids=str)
def test_it_stays_within_the_budget_and_the_same_seed_gives_the_same_bits(settings: dict[str, Any]) -> None:
    found = make(**settings)(CLEAN, knowledge(3, FAST))
    again = make(**settings)(CLEAN, knowledge(3, FAST))
    assert torch.equal(found.samples.x, again.samples.x)
    assert int(found.poisoned.sum()) == 6
    assert torch.equal(found.samples.y, CLEAN.y)
    assert (CLEAN.y[found.poisoned] == draw_targets(TargetSettings(), knowledge(3)).wanted_class).all()
    assert 0.05 < float((found.samples.x - CLEAN.x).abs().max()) <= 0.2 + 1e-6


def test_nets_begin_at_their_own_epoch_and_anew_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[int] = []
    trained: list[tuple[int, int, bool]] = []

    class Watched(Surrogate):
        def __init__(self, fit: Any, samples: int, seed: int, generator: torch.Generator) -> None:
            super().__init__(fit, samples, seed, generator)
            self.seed = seed
            began.append(seed)

        def train(self, samples: Batch, epochs: int = 1) -> None:
            super().train(samples, epochs)
            trained.append((self.seed, self.epochs, torch.equal(samples.x, CLEAN.x)))

    monkeypatch.setattr("taster.attacks.targeted.metapoison.Surrogate", Watched)
    make(steps=3)(CLEAN, knowledge(0, FAST))
    # Two nets of four epochs: they begin after 0 and 2, and the second ends after two more.
    assert trained[:2] == [(0, 0, True), (1, 2, True)]
    assert trained[2:] == [(0, 1, False), (1, 3, False), (0, 2, False), (1, 4, False), (0, 3, False), (3, 1, False)]
    assert began == [0, 1, 3]


def test_it_fine_tunes_too() -> None:
    weights = SCRATCH(CLEAN)

    def tuned(seed: int) -> nn.Module:
        net = make_net()
        net.load_state_dict({**net.state_dict(), **weights.params, **weights.buffers})
        return net

    fit = NetTraining(tuned, FAST.settings, "fine_tune", seed=5)
    assert int(make()(CLEAN, knowledge(1, fit)).poisoned.sum()) == 6


@pytest.mark.effect
def test_steps_ahead_come_nearer_to_the_goal_than_noise_at_nets_that_it_has_not_seen() -> None:
    known = knowledge(1, FAST)
    goal = draw_targets(TargetSettings(), known).wanted
    margins = {}
    for name, more in (("metapoison", {"steps": 15, "nets": 3}), ("random_bases", {})):
        made = find_factory("attack", name).make({}, {"poison_fraction": 0.3, "epsilon": 0.3, **more})
        assert isinstance(made, DatasetAttack)
        samples = made(CLEAN, known).samples
        found = [NetTraining(make_net, SCRATCH.settings, seed=seed)(samples).outputs(goal.x)[0] for seed in (70, 71)]
        margins[name] = sum(float(z[goal.y[0]] - z.max()) for z in found)
    assert margins["metapoison"] > margins["random_bases"] + 0.5


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(AttackError, match="metapoison: got the training of an estimator"):
        make()(CLEAN, knowledge(0, EstimatorTraining(lambda: None, 3)))
    with pytest.raises(AttackError, match="which is 30 samples of 60, wanted at most the 20"):
        make(poison_fraction=0.5)(CLEAN, knowledge())


@pytest.mark.parametrize(
    "settings", [{"look_ahead": 0}, {"nets": 0}, {"confidence": -1.0}, {"batch_norm": "x"}], ids=str
)
def test_settings_out_of_bounds_are_told(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        DATASET_ATTACKS["metapoison"](**settings)
