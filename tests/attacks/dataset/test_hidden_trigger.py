"""Hidden triggers: poison that collides with triggered samples and shows none of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from taster import Batch
from taster.attacks import DatasetKnowledge, DatasetPoisonSettings, hidden_trigger_backdoor
from taster.attacks.dataset.hidden_trigger import _distance_gradient, _draw, _features, pair
from taster.attacks.triggers import named_trigger
from taster.core.fitting import Fit
from taster.core.training_settings import TrainingSettings
from taster.errors import AttackError, ModelError, SettingError
from taster.models.mlp import mlp
from taster.offline import EstimatorTraining, NetTraining

OWN = "tests.attacks.test_backdoors:stripe"


def images(n: int, seed: int) -> Batch:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return Batch((y.float() / 4 + 0.1)[:, None, None, None] + 0.2 * torch.rand(n, 1, 6, 6, generator=g), y)


def make_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return mlp((1, 6, 6), 3, hidden=[16])


FIT = NetTraining(make_net, TrainingSettings(epochs=8, batch_size=16, learning_rate=0.1))


def knows(fit: Fit = FIT, own: Batch | None = None) -> DatasetKnowledge:
    generator = torch.Generator().manual_seed(3)
    return DatasetKnowledge(3, images(60, 1) if own is None else own, (fit,), generator)


def attack(share: float = 0.1, **settings: Any) -> Any:
    chosen = {"target_class": 1, "trigger": OWN, "epsilon": 0.2, **settings}
    return hidden_trigger_backdoor(poison=DatasetPoisonSettings(poison_fraction=share), **chosen)


def nearest(view: Any, x: Tensor, triggered: Tensor) -> Tensor:
    return torch.cdist(_features(view, x, None), _features(view, triggered, None)).amin(1)


def test_poison_keeps_its_label_and_ball_and_nears_triggered_samples_of_others() -> None:
    clean, knowledge = images(90, 0), knows()
    found = attack()(clean, knowledge)
    bad = found.poisoned
    assert int(bad.sum()) == 9
    assert torch.equal(found.samples.y, clean.y)
    assert bool((clean.y[bad] == 1).all())
    change = (found.samples.x - clean.x).abs().flatten(1).amax(1)
    assert float(change.max()) <= 0.2 + 1e-6
    assert bool((change[~bad] == 0).all())
    # The trigger is white; no poison shows it.
    assert float(found.samples.x[bad][..., 0].mean()) < 0.95
    view, own = FIT(clean), knowledge.own
    triggered = named_trigger(OWN)(own.x[own.y != 1])
    before, after = nearest(view, clean.x[bad], triggered), nearest(view, found.samples.x[bad], triggered)
    assert float(after.mean()) < 0.7 * float(before.mean())
    # Random noise of the same size does not.
    noise = clean.x[bad] + 0.2 * torch.randn_like(clean.x[bad]).sign()
    assert float(nearest(view, noise.clamp(0, 1), triggered).mean()) > float(after.mean())


def test_the_control_is_noise_of_full_size_on_the_same_samples() -> None:
    clean = images(90, 0)
    found, control = attack()(clean, knows()), attack(perturbation="noise")(clean, knows())
    assert torch.equal(found.poisoned, control.poisoned)
    assert torch.equal(control.samples.y, clean.y)
    change = (control.samples.x - clean.x)[control.poisoned].abs()
    inside = (control.samples.x[control.poisoned] > 0) & (control.samples.x[control.poisoned] < 1)
    torch.testing.assert_close(change[inside], torch.full_like(change[inside], 0.2))


def test_the_same_seed_gives_the_same_bits() -> None:
    clean = images(60, 0)
    assert torch.equal(attack()(clean, knows()).samples.x, attack()(clean, knows()).samples.x)


def test_of_a_small_class_all_are_taken_and_in_any_number_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = images(30, 0)
    monkeypatch.setattr("taster.attacks.dataset.hidden_trigger._AT_ONCE", 4)
    found = attack(0.9, rounds=1, steps=2)(clean, knows())
    assert torch.equal(found.poisoned, clean.y == 1)


def test_pairs_have_the_smallest_sum() -> None:
    g = torch.Generator().manual_seed(0)
    rows, others = torch.randn(5, 3, generator=g), torch.randn(5, 3, generator=g)
    distances = torch.cdist(rows.double(), others.double()).square()
    best = min(permutations(range(5)), key=lambda p: float(distances[range(5), list(p)].sum()))
    assert pair(rows, others).tolist() == list(best)


def test_sources_come_equally_often() -> None:
    drawn = _draw(torch.arange(4)[:, None], 10, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn.flatten(), minlength=4)
    assert sorted(counts.tolist()) == [2, 2, 3, 3]


def test_the_gradient_is_that_of_the_distance() -> None:
    made = replace(FIT, make_model=lambda seed: make_net(seed).double())
    samples = images(30, 0)
    view = made(Batch(samples.x.double(), samples.y))
    x, wanted = samples.x[:2].double(), _features(view, samples.x[4:6].double(), None)
    found, step = _distance_gradient(view, x, wanted, None), 1e-6
    for place in ((0, 0, 2, 3), (1, 0, 5, 0)):
        up, down = x.clone(), x.clone()
        up[place] += step
        down[place] -= step
        distance = [(_features(view, at, None) - wanted).square().sum() for at in (up, down)]
        assert float(found[place]) == pytest.approx(float(distance[0] - distance[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_slips_are_told() -> None:
    clean = images(30, 0)
    with pytest.raises(AttackError, match="target_class: got 3, wanted 0 to 2"):
        attack(target_class=3)(clean, knows())
    ones = images(60, 1).select(images(60, 1).y == 1)
    with pytest.raises(AttackError, match="own samples of the target class 1 alone"):
        attack()(clean, knows(own=ones))
    with pytest.raises(AttackError, match="hidden_trigger_backdoor: got the training of an estimator"):
        attack()(clean, knows(EstimatorTraining(lambda: None, 3)))
    with pytest.raises(ModelError, match="layer"):
        attack(layer="nowhere")(clean, knows())
    with pytest.raises(AttackError, match="trigger: got 'nothing'"):
        attack(trigger="nothing")
    with pytest.raises(SettingError, match="epsilon"):
        attack(epsilon=0.0)
