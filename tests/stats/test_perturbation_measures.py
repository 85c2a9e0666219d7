"""Measures of perturbations, against plain loops and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import davies_bouldin_score

from taster.errors import SettingError
from taster.stats.perturbation_measures import (
    class_separability_discriminant,
    class_separability_gradient,
    linear_separability,
    measure_perturbations,
    psnr,
    ssim,
    two_layer_separability,
)

RNG = np.random.default_rng(0)


def test_psnr_of_a_change_of_one_size_is_its_closed_form() -> None:
    clean = RNG.random((3, 2, 5, 5))
    found = psnr(clean, clean + 0.1)
    assert found == pytest.approx([20.0] * 3)
    assert psnr(clean * 255, clean * 255 + 25.5, 255) == pytest.approx([20.0] * 3)
    assert psnr(clean, clean).tolist() == [math.inf] * 3


def test_ssim_is_that_of_a_loop_over_windows() -> None:
    x, y = RNG.random((2, 3, 14, 13)), RNG.random((2, 3, 14, 13))
    places = np.arange(11) - 5
    line = np.exp(-(places**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    for image in range(2):
        values = []
        for channel in range(3):
            for top in range(4):
                for left in range(3):
                    a = x[image, channel, top : top + 11, left : left + 11]
                    b = y[image, channel, top : top + 11, left : left + 11]
                    mean_a, mean_b = (window * a).sum(), (window * b).sum()
                    var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
                    both = (window * (a - mean_a) * (b - mean_b)).sum()
                    above = (2 * mean_a * mean_b + 0.01**2) * (2 * both + 0.03**2)
                    values.append(above / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2)))
        assert ssim(x, y)[image] == pytest.approx(np.mean(values))
    assert ssim(x, x) == pytest.approx([1.0, 1.0])
    assert ssim(255 * x, 255 * y, 255) == pytest.approx(ssim(x, y))
    with pytest.raises(SettingError, match="at least 11 x 11"):
        ssim(x[:, :, :10], y[:, :, :10])


def test_noise_of_a_class_is_separable_and_random_noise_of_many_samples_is_not() -> None:
    y = np.arange(200) % 2
    of_class = np.where(y == 1, 1.0, -1.0)[:, None] * np.ones((200, 4))
    random = RNG.normal(size=(200, 4))
    assert linear_separability(of_class + 0.1 * random, y) == 100
    assert linear_separability(random, y) < 75
    assert two_layer_separability(of_class + 0.1 * random, y) == 100


def test_a_net_with_a_hidden_layer_separates_what_no_line_does() -> None:
    corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    changes = np.repeat(corners * 2 - 1, 100, axis=0) + 0.05 * RNG.normal(size=(400, 2))
    y = np.repeat([0, 1, 1, 0], 100)
    assert linear_separability(changes, y) < 80
    assert two_layer_separability(changes, y) > 95


def test_csd_by_hand() -> None:
    changes = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 8.0], [0.0, 12.0]])  # means 0 and (0, 10), spreads 1 and 2
    assert class_separability_discriminant(changes, np.array([0, 0, 1, 1])) == pytest.approx(0.3)
    assert class_separability_discriminant(3 * changes, np.array([5, 5, 7, 7])) == pytest.approx(0.3)
    assert math.isnan(class_separability_discriminant(np.zeros((4, 2)), np.array([0, 0, 1, 1])))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_gradient_of_csd_against_differences(classes: int) -> None:
    changes, labels = RNG.normal(size=(4 * classes + 1, 3)), np.arange(4 * classes + 1) % classes
    found = class_separability_gradient(changes, labels)
    for place in np.ndindex(changes.shape):
        step = np.zeros_like(changes)
        step[place] = 1e-6
        above, below = (class_separability_discriminant(changes + sign * step, labels) for sign in (1, -1))
        assert found[place] == pytest.approx((above - below) / 2e-6, rel=1e-5, abs=1e-7)


def test_the_gradient_of_csd_where_there_is_none() -> None:
    single = np.array([[0.0, 0.0], [3.0, 4.0]])  # each its class's mean, from which no direction leads to it
    assert not class_separability_gradient(single, np.array([0, 1])).any()
    with pytest.raises(SettingError, match="two classes of perturbations with one mean"):
        class_separability_gradient(np.zeros((4, 2)), np.array([0, 0, 1, 1]))


def test_csd_is_a_mean_over_pairs_and_no_davies_bouldin_index() -> None:
    rows, labels = RNG.normal(size=(30, 2)) + 5 * np.repeat([[0, 0], [1, 0], [0, 4]], 10, 0), np.repeat([0, 1, 2], 10)
    pairs = [class_separability_discriminant(rows[labels != left], labels[labels != left]) for left in range(3)]
    assert class_separability_discriminant(rows, labels) == pytest.approx(sum(pairs) / 3)
    assert class_separability_discriminant(rows, labels) < davies_bouldin_score(rows, labels)


def test_all_of_them_at_once_and_what_is_refused() -> None:
    clean = RNG.random((20, 3, 12, 12))
    y = np.arange(20) % 2
    signs = np.where(y == 1, 1.0, -1.0)[:, None, None, None]
    found = measure_perturbations(clean, clean + 0.1 * signs, y)
    assert found.largest == pytest.approx(0.1)
    assert found.psnr == pytest.approx(20)
    assert found.ssim == pytest.approx(float(ssim(clean, clean + 0.1 * signs).mean()))
    assert (found.linear, found.two_layer, found.csd) == (100, 100, pytest.approx(0, abs=1e-9))
    assert measure_perturbations(clean[..., 0, 0], clean[..., 0, 0] + 0.1 * signs[..., 0, 0], y).ssim is None
    with pytest.raises(SettingError, match="all as they were"):
        measure_perturbations(clean, clean, y)
    with pytest.raises(SettingError, match="two of one shape"):
        measure_perturbations(clean, clean[:5], y)
    with pytest.raises(SettingError, match="1 class, wanted at least two"):
        measure_perturbations(clean, clean + 0.1, np.zeros(20, int))
