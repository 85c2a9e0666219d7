"""Points inserted into the training set of a support vector machine."""

from __future__ import annotations

import pytest
import torch
from sklearn.svm import SVC
from tests.attacks.poison_problems import central_differences, digit_roles, error, gaussians, knows

from taster import Batch
from taster.attacks import DatasetPoisonSettings, svm_poisoning
from taster.attacks.dataset.svm_machine import Kernel, KernelName, train_svm
from taster.attacks.dataset.svm_poisoning import insertion_objective
from taster.errors import AttackError, SettingError


def signs(batch: Batch) -> torch.Tensor:
    return 2.0 * batch.y.double() - 1


@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_the_machine_is_that_of_scikit_learn_in_double_precision(name: KernelName) -> None:
    train, fresh = gaussians(80, 0, d=5), gaussians(50, 1, d=5)
    found = train_svm(Kernel(name, 0.3), 2.0, train.x, signs(train))
    known = SVC(C=2.0, kernel=name, gamma=0.3, tol=1e-8).fit(train.x, train.y)
    decisions = torch.from_numpy(known.decision_function(fresh.x))
    torch.testing.assert_close(found.decisions(fresh.x), decisions, atol=1e-5, rtol=1e-5)
    margins = found.sign * found.decisions(train.x)
    assert abs(float((found.alpha * found.sign).sum())) < 1e-10
    assert bool(found.margin.any())
    torch.testing.assert_close(margins[found.margin], torch.ones_like(margins[found.margin]), atol=1e-8, rtol=0)
    assert bool((margins[found.alpha == 0] >= 1 - 1e-8).all())
    assert bool((margins[found.alpha == 2.0] <= 1 + 1e-8).all())


@pytest.mark.parametrize("name", ["linear", "rbf"])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.4])
def test_the_gradient_is_that_of_training_again(name: KernelName, shift: float) -> None:
    # More dimensions than margin support vectors: otherwise an error vector moves no linear machine.
    train, own = gaussians(24, 2, d=30), gaussians(40, 3, d=30)
    kernel = Kernel(name, 0.02)
    objective = insertion_objective(kernel, 0.05 if name == "linear" else 1.0, train.x, signs(train), own.x, signs(own))
    point = train.x[train.y == 0][:1] + shift * torch.eye(1, 30, dtype=torch.float64)
    expected = central_differences(lambda x: objective(x)[0], point, 1e-5)
    assert float(expected.norm()) > 1e-4
    torch.testing.assert_close(objective(point)[1](), expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_the_gradient_is_that_of_training_again_for_a_margin_vector(name: KernelName) -> None:
    train, own = gaussians(24, 2, d=30), gaussians(40, 3, d=30)
    kernel, c = Kernel(name, 0.02), 50.0
    point = train.x[train.y == 0][:1] + 0.5
    both, labels = torch.cat([train.x, point]), torch.cat([signs(train), torch.ones(1)])
    assert bool(train_svm(kernel, c, both, labels).margin[-1])
    objective = insertion_objective(kernel, c, train.x, signs(train), own.x, signs(own))
    expected = central_differences(lambda x: objective(x)[0], point, 1e-5)
    torch.testing.assert_close(objective(point)[1](), expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_training_from_a_near_machine_is_training(name: KernelName) -> None:
    train, kernel = gaussians(60, 0, d=8), Kernel(name, 0.1)
    near = train_svm(kernel, 1.0, train.x, signs(train))
    moved = train.x.clone()
    moved[:3] += 0.2
    found = train_svm(kernel, 1.0, moved, signs(train), near=near)
    anew = train_svm(kernel, 1.0, moved, signs(train))
    torch.testing.assert_close(found.alpha, anew.alpha, atol=1e-8, rtol=0)
    assert found.bias == pytest.approx(anew.bias, abs=1e-8)
    assert float((found.alpha - near.alpha).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_points_do_more_harm_than_the_flipped_samples_that_they_begin_as(name: KernelName) -> None:
    points = 3 if name == "linear" else 6
    poison = DatasetPoisonSettings(poison_fraction=points / 60)
    harm: dict[int, list[float]] = {0: [], 8: []}
    clean_error = []
    for seed in range(3):
        clean, own, test = digit_roles(seed, 60, 100, 190, of=(3, 8))
        victim = SVC(C=1.0, kernel=name)
        clean_error.append(error(victim, clean, test))
        for iterations, found in harm.items():
            attack = svm_poisoning(
                poison=poison, kernel=name, attacked_class=0, attacking_class=1, iterations=iterations
            )
            poisoned = attack(clean, knows(own, 2, seed, 0.0, 1.0))
            assert int(poisoned.poisoned.sum()) == points
            assert poisoned.samples.x.dtype == torch.float32
            assert torch.equal(poisoned.samples.x[:60], clean.x)
            assert poisoned.samples.y[60:].tolist() == [1] * points
            assert 0 <= float(poisoned.samples.x.min()) <= float(poisoned.samples.x.max()) <= 1
            found.append(error(victim, poisoned.samples, test))
    assert sum(harm[8]) / 3 > sum(harm[0]) / 3 + 1.5
    assert sum(harm[8]) / 3 > sum(clean_error) / 3 + 2


def test_the_control_inserts_samples_of_the_attacked_class_with_the_other_label() -> None:
    clean, own = digit_roles(0, 60, 60)
    attack = svm_poisoning(
        poison=DatasetPoisonSettings(poison_fraction=0.2), attacked_class=4, attacking_class=9, iterations=0
    )
    found = attack(clean, knows(own, 10, 0, 0.0, 1.0))
    assert len(found.samples) == 72
    attacked = clean.x[clean.y == 4]
    assert all(any(torch.equal(x, known) for known in attacked) for x in found.samples.x[60:])
    assert set(found.samples.y[60:].tolist()) == {9}


def test_an_attack_without_classes_named_takes_the_two_that_there_are() -> None:
    clean, own = gaussians(40, 0), gaussians(40, 1)
    poison = DatasetPoisonSettings(poison_fraction=0.025)
    labels = {int(svm_poisoning(poison=poison, iterations=1)(clean, knows(own, 2, s)).samples.y[-1]) for s in range(8)}
    assert labels == {0, 1}
    assert int(svm_poisoning(poison=poison, attacked_class=1)(clean, knows(own, 2)).samples.y[-1]) == 0
    assert int(svm_poisoning(poison=poison, attacking_class=1)(clean, knows(own, 2)).samples.y[-1]) == 1


def test_bad_settings_are_errors() -> None:
    clean, own = gaussians(40, 0, classes=3), gaussians(40, 1, classes=3)
    poison = DatasetPoisonSettings(poison_fraction=0.1)
    with pytest.raises(AttackError, match="got 3 classes, wanted 2, or both attacked_class and attacking_class"):
        svm_poisoning(poison=poison)(clean, knows(own, 3))
    with pytest.raises(AttackError, match="attacking_class: got 3, wanted 0 to 2"):
        svm_poisoning(poison=poison, attacked_class=0, attacking_class=3)(clean, knows(own, 3))
    with pytest.raises(AttackError, match="got 1 as attacked_class and attacking_class, wanted two classes"):
        svm_poisoning(poison=poison, attacked_class=1, attacking_class=1)(clean, knows(own, 3))
    with pytest.raises(AttackError, match="got no sample of class 2 in the attacker's own samples"):
        svm_poisoning(poison=poison, attacked_class=1, attacking_class=2)(clean, knows(own.select(own.y != 2), 3))
    with pytest.raises(AttackError, match=r"poison_fraction: got 0\.01, which is no sample of 40"):
        svm_poisoning(attacked_class=1, attacking_class=2)(clean, knows(own, 3))
    with pytest.raises(SettingError, match="svm_poisoning: kernel: got 'poly'"):
        svm_poisoning(kernel="poly")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="svm_poisoning: c: got 0"):
        svm_poisoning(c=0.0)
