"""The benchmarks of certificates: features that depend on one image alone, and an attack that never beats a radius."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import pytest
import torch

from taster import Batch
from taster.data.partitions import hash_buckets


def images(n: int = 40) -> Batch:
    """Two slanted strokes, of which one leans to the left and one to the right, at random places."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = torch.zeros(n, 1, 28, 28, dtype=torch.uint8)
    for image, label in zip(x, y.tolist(), strict=True):
        corner = torch.randint(4, 10, (2,), generator=draw).tolist()
        for step in range(12):
            across = step // 2 if label else 6 - step // 2
            image[0, corner[0] + step, corner[1] + across : corner[1] + across + 3] = 200 + step
    return Batch(x, y)


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts find their neighbours as when they are run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean row and column of the ink, and their covariance, in pixels."""
    at = torch.arange(28.0)
    ink = x[:, 0] / x.sum((1, 2, 3))[:, None, None]
    row, column = (ink.sum(2) * at).sum(1), (ink.sum(1) * at).sum(1)
    return row, column, torch.einsum("nhw,h,w->n", ink, at, at) - row * column


def test_slant_is_taken_out_and_the_ink_is_in_the_middle() -> None:
    features = importlib.import_module("stroke_features")
    x = images().x.float() / 255
    assert float(moments(x)[2].abs().min()) > 4
    straight = [torch.from_numpy(features.deskewed(image[0].double().numpy())).float()[None] for image in x]
    row, column, covariance = moments(torch.stack(straight))
    assert float((row - 13.5).abs().max()) < 0.1
    assert float((column - 13.5).abs().max()) < 0.1
    assert float(covariance.abs().max()) < 0.2


@pytest.mark.parametrize(("deskew", "edge", "length"), [(True, True, 512), (False, False, 196)])
def test_features_of_an_image_depend_on_no_other_bit_for_bit(deskew: bool, edge: bool, length: int) -> None:
    features = importlib.import_module("stroke_features")
    x = images(6).x
    whole = features.one_by_one(x, deskew=deskew, edge=edge)
    assert whole.shape == (6, length)
    assert torch.equal(whole[4:5], features.one_by_one(x[4:5], deskew=deskew, edge=edge))
    blank = features.one_by_one(torch.zeros_like(x[:1]), deskew=deskew, edge=edge)
    assert bool(blank.isfinite().all())


def test_the_attack_needs_more_than_the_radius_and_says_what_turned_the_image() -> None:
    attack = importlib.import_module("certificate_attack")
    args = argparse.Namespace(partitions=5, penalty=1.0, copies=8, noise=8)
    drawn = images()
    clean = Batch(attack.features(drawn.x), drawn.y)
    ensemble = attack.trained(clean, args)
    image = images(2).x[1]
    seen = attack.features(image[None])
    found = ensemble.predict(seen)
    votes = attack.votes_of(ensemble.models.scores(seen))
    radius = int(found.radius[0])
    sizes = [attack.attack(clean, image, votes, radius, kind, args)["size"] for kind in ("insert", "flip")]
    turned = [size for size in sizes if size is not None]
    assert turned
    assert min(turned) > radius


def test_copies_fall_where_they_are_to_fall() -> None:
    attack = importlib.import_module("certificate_attack")
    args = argparse.Namespace(partitions=5, noise=8)
    image, wanted = images(1).x[0], torch.tensor([3, 0, 3, 4])
    found = attack.copies_in(image, wanted, args, torch.Generator().manual_seed(0))
    assert found.shape == (4, 512)
    assert hash_buckets(found, None, 5).tolist() == wanted.tolist()
