"""What all defences of training sets have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.defences.dataset.conftest import LogisticFit, NetFit, accuracy, defended, digit_sets, flipped, run_of

from taster import Batch
from taster.defences import DATASET_DEFENCES, DatasetDefence, RobustTraining
from taster.defences.dataset_defence import check_weights
from taster.defences.training import SGDSettings
from taster.errors import BatchError, DataError, DefenceError, LabelError

SETTINGS: dict[str, dict[str, Any]] = {
    "trimmed_loss": {"keep": 0.95, "rounds": 2},
    "reject_on_negative_impact": {"group_size": 30, "trials": 1, "calibration": 20},
    "nearest_neighbour_sanitation": {},
    "influence_sanitation": {},
    "score_filter": {"share": 0.05},
    "partition_aggregation_training": {"partitions": 3, "sgd": SGDSettings(epochs=25)},
    "finite_aggregation_training": {"partitions": 3, "spread": 2, "sgd": SGDSettings(epochs=25)},
    "grey": {},
    "jpeg": {"quality": 90},
    "mixup": {},
    "cutmix": {},
    "cutout": {"length": 2},
    "gaussian_noise": {},
    "adversarial_training": {"steps": 2},
    "early_stopping": {},
    "clean_share": {},
    "simclr": {},
    "moco": {},
    "simsiam": {},
}
NEEDS_IMAGES = ("grey", "jpeg")
# Tested in test_countermeasures.py, test_trained_otherwise.py and test_self_supervised.py.
NEEDS_EPOCHS = (
    *("mixup", "cutmix", "cutout", "gaussian_noise", "adversarial_training", "early_stopping"),
    *("simclr", "moco", "simsiam"),
)
NEEDS_A_NET = ("score_filter",)
EPOCH_BY_EPOCH = {"anti_backdoor_learning", "gradient_shaping"}
"""They train in epochs of their own, need another training than those here, and are tested by themselves."""
NEEDS_TRUSTED = ("reject_on_negative_impact", "influence_sanitation")


def made(name: str) -> DatasetDefence | RobustTraining:
    return DATASET_DEFENCES[name](**SETTINGS[name])


def test_all_are_here() -> None:
    assert SETTINGS.keys() | EPOCH_BY_EPOCH == DATASET_DEFENCES.keys()
    assert all(function.__name__ == name for name, function in DATASET_DEFENCES.items())


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", ["net", "logistic"])
def test_on_honest_data_little_is_lost_and_the_weights_keep_their_contract(name: str, kind: str) -> None:
    if kind == "logistic" and name in NEEDS_A_NET:
        pytest.skip("wants features of a net")
    if name in NEEDS_EPOCHS or (kind == "logistic" and name in NEEDS_IMAGES):
        pytest.skip("wants a net whose epochs can be made one at a time, or images")
    train, trusted, test = digit_sets(300)
    if kind == "logistic":  # vectors, beside the images of the net
        train, trusted, test = (replace(some, x=some.x.flatten(1)) for some in (train, trusted, test))
    fit = NetFit(steps=25) if kind == "net" else LogisticFit(c=1.0)
    run = run_of(train, trusted, fit, seed=1)
    before = train.x.clone(), train.y.clone()
    classifier, weights = defended(made(name), run)
    assert accuracy(classifier, test) > accuracy(fit(train, seed=1), test) - 8
    assert torch.equal(train.x, before[0])
    assert torch.equal(train.y, before[1])
    if weights is None:
        return
    check_weights(weights, 300)
    assert float((weights == 0).float().mean()) < 0.2
    again = defended(made(name), run)[1]
    assert again is not None
    assert torch.equal(weights, again)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name in NEEDS_TRUSTED])
def test_draws_are_of_the_runs_seed(name: str) -> None:
    train, trusted, _ = digit_sets(300)
    samples, _ = flipped(train, 0.2, 10)
    found = [defended(made(name), run_of(samples, trusted, LogisticFit(), seed=seed))[1] for seed in (0, 1)]
    assert found[0] is not None
    assert found[1] is not None
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", SETTINGS)
def test_samples_that_cannot_be_trained_on_are_refused(name: str) -> None:
    train, trusted, _ = digit_sets(100)
    broken = train.x.clone()
    broken[3, 0, 0, 0] = torch.nan
    cases: list[tuple[Batch, type[Exception], str]] = [
        (replace(train, x=broken), BatchError, "NaN or infinity in sample 3"),
        (replace(train, y=train.y + 1), LabelError, "wanted 0 to 9"),
        (replace(train, y=torch.zeros_like(train.y)), DataError, "all of class 0"),
        (Batch({"pixels": train.x}, train.y), BatchError, "wanted one tensor"),
    ]
    for samples, error, message in cases:
        fit = NetFit()
        with pytest.raises(error, match=message):
            defended(made(name), run_of(samples, trusted, fit))
        assert fit.fits == 0


@pytest.mark.parametrize("name", NEEDS_TRUSTED)
def test_trusted_samples_must_be_like_the_others(name: str) -> None:
    train, trusted, _ = digit_sets(100)
    for wrong, error, message in (
        (replace(trusted, x=trusted.x[:, :, :4]), DefenceError, r"got trusted samples \[1, 4, 8\]"),
        (replace(trusted, y=trusted.y + 1), LabelError, "trusted label 10, wanted 0 to 9"),
        (replace(trusted, y=trusted.y.float()), LabelError, "class indices"),
    ):
        with pytest.raises(error, match=message):
            defended(made(name), run_of(train, wrong, LogisticFit()))


class WrongShape:
    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :7]


def test_outputs_of_another_shape_are_refused() -> None:
    train, trusted, _ = digit_sets(100)
    run = run_of(train, trusted, lambda samples, /, **_: WrongShape())
    for name in ("trimmed_loss", "reject_on_negative_impact"):
        with pytest.raises(DefenceError, match=r"got outputs \[\d+, 7\] of the classifier, wanted \[\d+, 10\]"):
            defended(made(name), run)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SETTINGS)
def test_weights_lie_where_the_samples_do(name: str) -> None:
    train, trusted, _ = (some.to("cuda") for some in digit_sets(300))
    _, weights = defended(made(name), run_of(train, trusted, NetFit(steps=5)))
    assert weights is None or weights.device == train.x.device
