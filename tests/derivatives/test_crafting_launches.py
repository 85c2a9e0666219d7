"""Crafting launches little beside the passes through the network, and waits once a batch: counts, not times."""

from __future__ import annotations

import pytest
import torch
from benchmarks.launches import STEPS, as_on_a_gpu, counted, crafting
from tests.conftest import tiny_batch, tiny_learner
from torch import Tensor
from torch.nn.functional import cross_entropy

from taster.attacks.crafting import Crafting, CraftingSettings
from taster.core.losses import check_labels
from taster.derivatives import Derivatives, Normalize, algebra, normalized
from taster.derivatives.layouts import WIDTH, RowLayout
from taster.errors import LabelError

CPU = torch.device("cpu")


@pytest.mark.parametrize("normalize", ["none", "global", "per_tensor"])
def test_a_batch_is_few_launches_and_one_wait(normalize: Normalize) -> None:
    with as_on_a_gpu():
        counts = counted(crafting("resnet18", "batch", normalize, CPU, batch=2), warm=1)
    # Two passes of 20 convolutions and as many norms, forward and back, are some 300.
    assert counts.launches.total() / STEPS <= 400
    assert counts.readings == 1
    assert not counts.waits


@pytest.mark.parametrize("normalize", ["none", "global", "per_tensor"])
def test_the_accumulation_direction_is_few_launches_and_one_wait(normalize: Normalize) -> None:
    with as_on_a_gpu():
        counts = counted(crafting("resnet18", "G", normalize, CPU, batch=2), warm=1)
    assert counts.launches.total() <= 900
    assert counts.readings == 1
    assert not counts.waits


def crafted(derivatives: Derivatives, *, at_once: bool) -> Tensor:
    view = tiny_learner().view()
    settings = CraftingSettings(epsilon=0.2, pgd_steps=6)
    craft = Crafting(settings, lambda n: tiny_batch(n), torch.Generator(), derivatives)
    if not at_once:
        craft.derivatives.without_waiting = lambda compute: compute()  # type: ignore[method-assign]
    terms = [(1.0, craft.normalized_gradient(view, tiny_batch(seed=1)))]
    return craft.align(tiny_batch(seed=2), view, terms, torch.ones(8, dtype=torch.bool))


def test_what_is_read_at_the_end_gives_the_bits_of_what_is_read_at_each_step() -> None:
    read_later, read_at_once = Derivatives(), Derivatives()
    for _ in range(3):
        assert torch.equal(crafted(read_later, at_once=True), crafted(read_at_once, at_once=False))


def test_where_a_difference_has_missed_the_batch_is_made_again() -> None:
    """A length that is far off would give another batch, were it not noticed."""
    derivatives = Derivatives()
    truth = crafted(derivatives, at_once=True)
    step = derivatives._chosen._mixed  # type: ignore[attr-defined]
    calls = 0

    def spoiled() -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            step.length = step.length * 1e4
        return crafted_by(derivatives)

    def crafted_by(derivatives: Derivatives) -> Tensor:
        view, labels = tiny_learner().view(), tiny_batch(seed=2)
        function = derivatives.mixed(
            lambda params, x, y: view.loss(x, y, params=params), view.trainable, [(1.0, view.trainable)], "per_tensor"
        )
        return function(labels.x, labels.y)

    good = crafted_by(derivatives)
    found = derivatives.without_waiting(spoiled)
    assert calls == 2
    torch.testing.assert_close(found, good, rtol=0.05, atol=1e-4 * float(good.abs().max()))
    assert truth.shape == found.shape


def test_labels_are_looked_at_once_until_they_change() -> None:
    output, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
    check_labels(output, y, cross_entropy)
    y[0] = 3
    with pytest.raises(LabelError, match="got labels from 1 to 3"):
        check_labels(output, y, cross_entropy)
    y[0] = 2
    check_labels(output, y, cross_entropy)
    with pytest.raises(LabelError, match="wanted 0 to 1"):
        check_labels(output[:, :2], y, cross_entropy)


@pytest.mark.parametrize("normalize", ["global", "per_tensor"])
def test_gradients_held_in_rows_give_what_gradients_held_one_by_one_give(normalize: Normalize) -> None:
    g = torch.Generator().manual_seed(0)

    def draw() -> dict[str, Tensor]:
        kernel = torch.randn(9, 8, 3, 3, generator=g, dtype=torch.float64).to(memory_format=torch.channels_last)
        return {"kernel": kernel, "bias": 1e-3 * torch.randn(9, generator=g, dtype=torch.float64)}

    one, other, third = draw(), draw(), draw()

    def computed() -> list[Tensor]:
        leaves = {name: value.clone().requires_grad_(True) for name, value in one.items()}
        value = algebra.normalized_inner(leaves, other, normalize)
        slopes = torch.autograd.grad(value, list(leaves.values()), create_graph=True)
        along = torch.stack([(slope * third[name]).sum() for name, slope in zip(one, slopes, strict=True)]).sum()
        second = torch.autograd.grad(along, list(leaves.values()))
        exact = algebra.normalized_inner_grad(one, other, normalize)
        for name, slope in zip(one, slopes, strict=True):
            torch.testing.assert_close(exact[name], slope.detach())
        return [value.detach(), *exact.values(), *second, *normalized(one, normalize).values()]

    apart = computed()
    with as_on_a_gpu():
        together = computed()
    for own, held in zip(apart, together, strict=True):
        torch.testing.assert_close(own, held, rtol=1e-12, atol=1e-14)


def test_rows_are_the_tensors_whatever_their_memory_order() -> None:
    g = torch.Generator().manual_seed(0)
    tensors = {
        "kernel": torch.randn(7, 5, 3, 3, generator=g).to(memory_format=torch.channels_last),
        "one": torch.randn((), generator=g),
        "none": torch.randn(0, 3, generator=g),
        "bias": torch.randn(WIDTH, generator=g),
        "turned": torch.randn(40, 60, generator=g).T,
    }
    layout = RowLayout.of(tensors)
    matrix = layout.load(tensors)
    assert matrix.shape == (1 + 1 + 0 + 1 + 3, WIDTH)
    back = layout.unload(matrix, tensors)
    for name, value in tensors.items():
        assert torch.equal(back[name], value)
        assert back[name].stride() == value.stride() or value.numel() < 2
    sums = layout.products(matrix, matrix)
    torch.testing.assert_close(sums, torch.stack([value.square().sum() for value in tensors.values()]))
    # Others of these shapes go into it in another memory order too.
    assert torch.equal(layout.load({name: value.contiguous() for name, value in tensors.items()}), matrix)
