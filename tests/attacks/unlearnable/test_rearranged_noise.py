"""Perturbations on other samples: whose they are, and how large."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from taster.attacks.unlearnable.rearranged_noise import between_classes, interpolated, within_classes
from taster.errors import AttackError

LABELS = torch.tensor([0, 1, 2, 0, 1, 0, 2, 4, 4, 0])


def values() -> Tensor:
    """The place of each sample as its perturbation, [10, 1, 1, 1]."""
    return torch.arange(10.0).reshape(10, 1, 1, 1)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_within_classes_each_perturbation_stays_in_its_class_and_comes_once() -> None:
    found = within_classes(values(), LABELS, draws()).flatten().long()
    assert torch.equal(LABELS[found], LABELS)
    assert sorted(found.tolist()) == list(range(10))
    assert found.tolist() != list(range(10))
    assert torch.equal(found, within_classes(values(), LABELS, draws()).flatten().long())


def test_between_classes_each_class_has_those_of_the_next() -> None:
    found = between_classes(values(), LABELS, draws()).flatten().long()
    following = {0: 1, 1: 2, 2: 4, 4: 0}
    assert LABELS[found].tolist() == [following[label] for label in LABELS.tolist()]
    assert found[LABELS == 0].bincount(minlength=5).tolist() == [0, 2, 0, 0, 2]  # two perturbations for four samples


def test_mixtures_are_within_a_class_or_of_one_pair_of_classes() -> None:
    g = torch.Generator().manual_seed(4)
    old = torch.randn(60, 1, 3, 3, generator=g).clamp(-1, 1)
    labels = torch.arange(60) % 3
    marked = torch.cat([old, torch.eye(3)[labels].reshape(60, 1, 1, 3).expand(60, 1, 3, 3)], 1)
    new = torch.arange(200) % 5
    found = interpolated(marked, labels, new, draws())
    shares = found[:, 1, 0]  # of the classes in each mixture
    torch.testing.assert_close(shares.sum(1), torch.ones(200))
    for label in range(3):
        assert torch.allclose(shares[new == label, label], torch.ones(40))
    for label in (3, 4):
        own = shares[new == label]
        assert torch.allclose(own, own[:1].expand_as(own))
        assert int((own[0] > 0).sum()) == 2
        assert 0.25 - 1e-6 <= float(own[0].max()) <= 0.75 + 1e-6
        assert len(found[new == label, 0].flatten(1).unique(dim=0)) > 30
    assert float(found[:, 0].abs().max()) <= float(old.abs().max())
    assert torch.equal(found, interpolated(marked, labels, new, draws()))
    assert not torch.equal(found, interpolated(marked, labels, new, draws(1)))


def test_what_cannot_be_rearranged_is_told() -> None:
    one = torch.zeros(10, dtype=torch.int64)
    with pytest.raises(AttackError, match=r"perturbations \[10, 1, 1, 1\] with labels \[9\], wanted one perturbation"):
        within_classes(values(), LABELS[:9], draws())
    with pytest.raises(AttackError, match="of class 0 alone, wanted at least two classes to swap"):
        between_classes(values(), one, draws())
    with pytest.raises(AttackError, match="samples of class 1, and perturbations of class 0 alone"):
        interpolated(values(), one, torch.tensor([0, 1]), draws())
