"""No sample has two roles, none comes twice in an epoch, and who draws how often is nobody else's business."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taster.data import Augment, Images, ImageSet, Sampler, Stream, as_batch, split_roles
from taster.errors import DataError
from taster.utils.seeds import generator


def numbered(n: int) -> Images:
    """Images that hold their own index in two bytes."""
    index = torch.arange(n)
    x = torch.zeros(n, 1, 1, 2, dtype=torch.uint8)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = (index // 256).to(torch.uint8), (index % 256).to(torch.uint8)
    return Images(x, index % 5)


def indices(images: Images) -> list[int]:
    return (images.x[:, 0, 0, 0].long() * 256 + images.x[:, 0, 0, 1].long()).tolist()


SIZES = {"burn_in": 30, "stream": None, "trigger": 5, "validation": 10, "monitor": 10, "probe": 10, "test": 15}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_roles_are_disjoint_and_all_of_the_data(seed: int, own_test: bool) -> None:
    data = ImageSet("n", numbered(120), numbered(20) if own_test else None, classes=5)
    roles = split_roles(data, SIZES, seed)
    cut = [i for role, images in roles.items() if role != "test" or not own_test for i in indices(images)]
    assert len(cut) == len(set(cut)) == 120
    assert len(roles["test"]) == 15
    assert {role: len(images) for role, images in roles.items()}["probe"] == 10


def test_a_seed_decides_the_cut() -> None:
    data = ImageSet("n", numbered(120), None, classes=5)
    a, b, c = (split_roles(data, SIZES, seed) for seed in (1, 1, 2))
    assert indices(a["probe"]) == indices(b["probe"]) != indices(c["probe"])


def test_what_a_model_was_trained_on_elsewhere_stays_its_burn_in() -> None:
    data = ImageSet("n", numbered(120), None, classes=5)
    there = split_roles(data, SIZES, 0)
    for seed in (0, 1, 2):
        roles = split_roles(data, SIZES, seed, burn_in_seed=0)
        assert indices(roles["burn_in"]) == indices(there["burn_in"])
        assert sorted(i for images in roles.values() for i in indices(images)) == list(range(120))
        assert (indices(roles["probe"]) == indices(there["probe"])) == (seed == 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe": 100}, "split.probe = 100"),
        ({"stream": 100}, "wanted less"),
        ({"test": None}, "split.test: n has no test split"),
        ({"burn_in": 70}, "n has 120"),
    ],
)
def test_roles_that_ask_for_too_much_are_refused(change: dict[str, int | None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_roles(ImageSet("n", numbered(120), None, classes=5), {**SIZES, **change}, 0)


def test_a_test_split_that_is_too_small_is_refused() -> None:
    with pytest.raises(DataError, match="at most the 10"):
        split_roles(ImageSet("n", numbered(120), numbered(10), classes=5), SIZES, 0)


def read(batch_x: torch.Tensor) -> list[int]:
    return indices(Images((batch_x * 255).round().to(torch.uint8), torch.zeros(len(batch_x), dtype=torch.int64)))


def test_no_sample_comes_twice_in_an_epoch_and_epochs_differ() -> None:
    stream = Stream(numbered(53), 10, generator(0, "stream"))
    assert stream.batches_per_epoch == 5
    epochs = [[i for _ in range(5) for i in read(stream.draw().x)] for _ in range(3)]
    assert all(len(set(epoch)) == 50 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_generators_keep_out_of_each_others_way() -> None:
    plain, busy = (Stream(numbered(50), 10, generator(3, "stream")) for _ in range(2))
    sampler = Sampler(numbered(50), generator(3, "validation"))
    for _ in range(7):
        sampler(4)
        torch.rand(3)
        assert torch.equal(plain.draw().x, busy.draw().x)
    assert len(set(read(sampler(20).x))) == 20


def test_draws_beyond_the_data_are_refused() -> None:
    with pytest.raises(DataError, match="wanted 1 to 50"):
        Stream(numbered(50), 51, generator(0, "x"))
    with pytest.raises(DataError, match="wanted 1 to 50"):
        Sampler(numbered(50), generator(0, "x"))(51)


def reference_crop(x: torch.Tensor, crop: int, g: torch.Generator) -> torch.Tensor:
    """Sample by sample."""
    n, _, h, w = x.shape
    shift = torch.randint(0, 2 * crop + 1, (2, n, 1), generator=g)
    padded = torch.nn.functional.pad(x, [crop] * 4)
    return torch.stack(
        [p[:, r : r + h, c : c + w] for p, r, c in zip(padded, shift[0, :, 0], shift[1, :, 0], strict=True)]
    )


def test_cropping_a_batch_is_cropping_each_sample() -> None:
    x = torch.randint(0, 256, (20, 3, 7, 5), dtype=torch.uint8)
    found = Augment(crop=2)(x, torch.Generator().manual_seed(0))
    assert torch.equal(found, reference_crop(x, 2, torch.Generator().manual_seed(0)))


def test_flipping_mirrors_about_half() -> None:
    x = torch.randint(0, 256, (200, 1, 4, 4), dtype=torch.uint8)
    found = Augment(flip=True)(x, torch.Generator().manual_seed(0))
    mirrored = (found == x.flip(3)).flatten(1).all(1)
    assert bool((mirrored | (found == x).flatten(1).all(1)).all())
    assert 60 < int(mirrored.sum()) < 140


def test_pixels_lie_between_zero_and_one() -> None:
    batch = as_batch(Images(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), torch.tensor([3])))
    assert batch.x.tolist() == [[[[0.0, 1.0]]]]
    assert batch.y.tolist() == [3]
