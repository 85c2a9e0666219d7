"""A probe looked at before it is relied on."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import tiny_batch, tiny_learner
from tests.defences.conftest import easy, trained
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import taster
from taster import Batch
from taster.errors import BatchError, GuardError, ModelError
from taster.stats.confident_learning import suspected_labels


def distinct(n: int, seed: int) -> Batch:
    """Samples that are learned at once and differ from each other."""
    clean = easy(n, seed)
    noise = 0.02 * torch.rand(clean.x.shape, generator=torch.Generator().manual_seed(seed + 1))
    return Batch((clean.x * 0.98 + noise).clamp(0, 1), clean.y)


def test_a_good_probe_has_nothing_but_its_size() -> None:
    learner = trained(tiny_learner())
    report = taster.probe.check(distinct(120, 3), learner, train=distinct(300, 4))
    assert report.quality["correct"] > 0.95
    assert report.task == "classification"
    assert report.small
    assert len(report.findings) == 1
    assert not report.ok
    large = taster.probe.check(distinct(120, 3), learner, tolerance=50.0)
    assert large.ok
    assert str(large).endswith("Found nothing wrong.")


def test_wrong_labels_are_listed_and_left_alone() -> None:
    learner = trained(tiny_learner())
    probe = distinct(120, 3)
    y = probe.y.clone()
    y[[5, 17, 80]] = (y[[5, 17, 80]] + 1) % 3
    report = taster.probe.check(Batch(probe.x, y), learner)
    assert sorted(found.index for found in report.suspects) == [5, 17, 80]
    assert all(found.likely == int(probe.y[found.index]) for found in report.suspects)
    assert "3 labels that look wrong" in str(report)
    assert int((y != probe.y).sum()) == 3


def test_the_confident_joint_as_published() -> None:
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.45, 0.55], [0.3, 0.7]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    # t = (0.633, 0.717): sample 2 is under the first and above the second; sample 4 is above no threshold.
    (found,) = suspected_labels(p, labels)
    assert (found.index, found.given, found.likely) == (2, 0, 1)
    assert suspected_labels(p, torch.tensor([0, 0, 1, 1, 1, 1])) == []


def test_a_class_that_no_sample_has_is_never_likely() -> None:
    p = torch.tensor([[0.1, 0.0, 0.9], [0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    assert suspected_labels(p, torch.tensor([0, 0, 1])) == []


def test_duplicates_contradictions_and_training_samples_are_found() -> None:
    probe, train = distinct(60, 3), distinct(100, 4)
    x, y = probe.x.clone(), probe.y.clone()
    x[7], y[7] = x[2], y[2]
    x[9], y[9] = x[4], (y[4] + 1) % 3
    x[11], y[11] = train.x[50], train.y[50]
    report = taster.probe.check(Batch(x, y), train=train)
    assert report.duplicates == [[2, 7], [4, 9]]
    assert report.contradictions == [[4, 9]]
    assert report.in_training == [11]
    for form in (TensorDataset(train.x, train.y), DataLoader(TensorDataset(train.x, train.y), batch_size=7)):
        assert taster.probe.check(Batch(x, y), train=form).in_training == [11]


def test_missing_and_rare_classes_are_named() -> None:
    probe = distinct(200, 3)
    keep = torch.cat([(probe.y == 0).nonzero()[:40], (probe.y == 2).nonzero()[:5]]).flatten()
    report = taster.probe.check(probe.select(keep), trained(tiny_learner()))
    assert (report.missing, report.rare) == ([1], [2])
    assert report.class_counts == {0: 40, 2: 5}


def test_nan_is_reported_and_indices_stay_those_of_the_probe() -> None:
    probe = distinct(60, 3)
    x, y = probe.x.clone(), probe.y.clone()
    x[1, 0, 0, 0], x[2] = float("nan"), float("inf")
    x[40], y[40] = x[30], y[30]
    y[50:54] = (y[50:54] + 1) % 3
    report = taster.probe.check(Batch(x, y), trained(tiny_learner()))
    assert report.nonfinite == [1, 2]
    assert report.duplicates == [[30, 40]]
    suspects = {found.index for found in report.suspects}
    assert suspects
    assert suspects <= {50, 51, 52, 53}
    assert taster.probe.check(Batch(torch.full((4, 2), float("nan")), torch.zeros(4))).nonfinite == [0, 1, 2, 3]


def test_another_range_is_reported() -> None:
    probe = distinct(60, 3)
    bytes_like = Batch(255 * probe.x, probe.y)
    assert taster.probe.check(bytes_like, train=distinct(60, 4)).out_of_range
    assert taster.probe.check(bytes_like, input_range=(0.0, 1.0)).out_of_range
    assert not taster.probe.check(probe, train=distinct(60, 4)).out_of_range


def test_other_tasks_are_checked_as_far_as_they_go() -> None:
    torch.manual_seed(0)
    x = torch.rand(80, 3)
    numbers = taster.probe.check(Batch(x, x.sum(1)), nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), loss=nn.MSELoss())
    assert (numbers.task, numbers.bound, numbers.suspects) == ("regression", None, [])
    yes = Batch(x, (x[:, 0] > 0.5).float())
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[40.0, 0.0, 0.0]]))
        model.bias.fill_(-20.0)
    y = yes.y.clone()[:, None]
    y[x[:, 0].argmax()] = 0.0
    report = taster.probe.check(Batch(x, y), model, loss=nn.BCEWithLogitsLoss())
    assert report.task == "binary"
    assert [found.index for found in report.suspects] == [int(x[:, 0].argmax())]


def test_checking_changes_nothing() -> None:
    learner = trained(tiny_learner())
    probe = distinct(60, 3)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    x, y = probe.x.clone(), probe.y.clone()
    taster.probe.check(probe, learner.model)
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    assert learner.model.training
    assert torch.equal(probe.x, x)
    assert torch.equal(probe.y, y)


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(ModelError, match=r"wanted a torch.nn.Module"):
        taster.probe.check(tiny_batch(20), object())
    with pytest.raises(BatchError, match="cannot take the trusted samples"):
        taster.probe.check(Batch(torch.rand(20, 5), torch.zeros(20).long()), tiny_learner())
    with pytest.raises(BatchError, match=r"wanted a taster\.Batch"):
        taster.probe.check(torch.rand(4, 4))
    with pytest.raises(GuardError, match="min_per_class"):
        taster.probe.check(tiny_batch(20), min_per_class=0)
