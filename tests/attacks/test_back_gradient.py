"""Points optimized through the training of a network."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.attacks.poison_problems import central_differences, digit_roles, error, gaussians, knows
from torch.nn.functional import cross_entropy

from taster.attacks import DatasetPoisonSettings, UnrolledSettings, back_gradient
from taster.attacks.dataset.back_gradient import back_gradient_objective
from taster.attacks.dataset.unrolled_training import UnrolledTraining, first_params
from taster.errors import AttackError, SettingError

CLEAN, OWN = gaussians(30, 0, classes=3), gaussians(30, 1, classes=3)
LABELS = torch.tensor([1, 2])


def training(**settings: object) -> UnrolledTraining:
    made = UnrolledSettings(**{"steps": 25, "learning_rate": 0.3, "l2": 0.01, **settings})  # type: ignore[arg-type]
    start = first_params([3, *(made.hidden or []), 3], CLEAN.x, torch.Generator().manual_seed(0))
    return UnrolledTraining(made, CLEAN.x, CLEAN.y, start)


@pytest.mark.parametrize("hidden", [None, [5], [4, 3]])
def test_the_gradient_is_that_of_training_again(hidden: list[int] | None) -> None:
    objective = back_gradient_objective(training(hidden=hidden), LABELS, OWN.x, OWN.y)
    at = CLEAN.x[:2]
    expected = central_differences(lambda x: objective(x)[0], at)
    torch.testing.assert_close(objective(at)[1](), expected, atol=1e-8, rtol=1e-5)


def test_the_training_is_that_of_torchs_sgd() -> None:
    made = training(hidden=[5])
    layers = [torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)]
    model = torch.nn.Sequential(*layers).double()
    for param, value in zip(model.parameters(), made.start, strict=True):
        param.data.copy_(value)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, weight_decay=0.01)
    x, y = torch.cat([CLEAN.x, OWN.x[:2]]), torch.cat([CLEAN.y, LABELS])
    for _ in range(25):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    kept = made.run(OWN.x[:2], LABELS)
    assert len(kept) == 26
    for param, value in zip(model.parameters(), kept[-1], strict=True):
        torch.testing.assert_close(param.detach(), value, atol=1e-12, rtol=1e-12)
    assert len(training(iterates="reversed").run(OWN.x[:2], LABELS)) == 1


def test_reversed_iterates_give_nearly_the_same_gradient_and_nearer_for_smaller_steps() -> None:
    def gap(rate: float) -> float:
        found = []
        for iterates in ("stored", "reversed"):
            made = training(iterates=iterates, learning_rate=rate, hidden=[5])
            objective = back_gradient_objective(made, LABELS, OWN.x, OWN.y)
            found.append(objective(CLEAN.x[:2])[1]())
        exact, near = found
        return float((near - exact).norm() / exact.norm())

    assert 0 < gap(0.1) < gap(0.3) < 0.05


@pytest.mark.parametrize("insert", [True, False])
def test_points_do_more_harm_than_flipped_labels(insert: bool) -> None:
    poison, network = DatasetPoisonSettings(poison_fraction=0.1), UnrolledSettings(steps=20, learning_rate=1.5)
    harm: dict[int, list[float]] = {0: [], 6: []}
    for seed in range(3):
        clean, own, test = digit_roles(seed, 60, 100, 300, of=(3, 5, 8))
        for iterations, found in harm.items():
            attack = back_gradient(poison=poison, training=network, insert=insert, iterations=iterations, step_size=2.0)
            poisoned = attack(clean, knows(own, 3, seed, 0.0, 1.0))
            assert int(poisoned.poisoned.sum()) == 6
            assert len(poisoned.samples) == (66 if insert else 60)
            assert poisoned.samples.x.dtype == torch.float32
            assert 0 <= float(poisoned.samples.x.min()) <= float(poisoned.samples.x.max()) <= 1
            if not insert:
                assert bool((poisoned.samples.y != clean.y)[poisoned.poisoned].all())
            found.append(error(LogisticRegression(max_iter=2000), poisoned.samples, test))
    assert sum(harm[6]) / 3 > sum(harm[0]) / 3 + 3


@pytest.mark.parametrize("points_at_once", [1, 2, None])
def test_groups_of_points_raise_the_loss_and_the_earlier_ones_stay(points_at_once: int | None) -> None:
    network = UnrolledSettings(hidden=[4], steps=10, learning_rate=0.8)

    def loss(iterations: int) -> float:
        attack = back_gradient(
            poison=DatasetPoisonSettings(poison_fraction=0.1),
            training=network,
            points_at_once=points_at_once,
            iterations=iterations,
            step_size=2.0,
        )
        found = attack(CLEAN, knows(OWN, 3)).samples
        start = first_params([3, 4, 3], CLEAN.x, torch.Generator().manual_seed(3))
        objective = back_gradient_objective(
            UnrolledTraining(network, CLEAN.x, CLEAN.y, start), found.y[30:], OWN.x, OWN.y
        )
        return objective(found.x[30:])[0]

    assert loss(4) > loss(0) + 0.02


def test_bad_settings_are_errors() -> None:
    with pytest.raises(AttackError, match=r"poison_fraction: got 0\.01, which is no sample of 30"):
        back_gradient(poison=DatasetPoisonSettings(poison_fraction=0.01))(CLEAN, knows(OWN, 3))
    one = CLEAN.select(CLEAN.y == 0)
    with pytest.raises(AttackError, match="got 1 class, wanted at least 2"):
        back_gradient()(one, knows(one, 1))
    with pytest.raises(SettingError, match=r"back_gradient: hidden\.0: got 0"):
        back_gradient(training=UnrolledSettings(hidden=[0]))
    with pytest.raises(SettingError, match="back_gradient: iterates: got 'kept'"):
        back_gradient(training=UnrolledSettings(iterates="kept"))  # type: ignore[arg-type]
