"""Which trusted samples are looked at when."""

from __future__ import annotations

import itertools

import pytest
import torch

from taster.defences.gates.row_order import BLOCK, FIRST, RowOrder


def indices(order: RowOrder, block: int) -> list[list[int]]:
    return [torch.arange(order.samples)[look.rows].tolist() for look in order.looks(block)]


@pytest.mark.parametrize("samples", [2, 100, 2 * FIRST - 1, 2 * FIRST, 999, 1000, 1500, 4000, 10_000])
def test_every_open_sample_is_looked_at_once_and_no_other(samples: int) -> None:
    order = RowOrder(samples, 3)
    open_rows = set(torch.arange(samples)[order.open].tolist())
    held_out = set(order.held_out.tolist())
    assert open_rows | held_out == set(range(samples))
    assert not open_rows & held_out
    for block in range(3):
        looks = indices(order, block)
        seen = [row for look in looks for row in look]
        assert len(seen) == len(set(seen))
        assert set(seen) == open_rows


@pytest.mark.parametrize(
    ("samples", "held_out"), [(999, 0), (1000, 0), (1001, 1), (2000, 1000), (2500, 1500), (10_000, 6000)]
)
def test_three_fifths_are_held_out_and_none_of_the_first_thousand(samples: int, held_out: int) -> None:
    assert len(RowOrder(samples, 0).held_out) == held_out


@pytest.mark.parametrize("samples", [300, 1000, 10_000])
def test_looks_double_and_the_last_is_none_of_a_handful(samples: int) -> None:
    sizes = [len(look) for look in indices(RowOrder(samples, 0), 0)]
    assert sizes[0] == FIRST
    for number in range(1, len(sizes) - 1):
        assert sizes[number] == sum(sizes[:number])  # twice as many as before are known then
    assert 2 * sizes[-1] >= sum(sizes[:-1])
    assert len(sizes) == {300: 2, 1000: 4, 10_000: 6}[samples]


@pytest.mark.parametrize("options", [{"whole": True}, {"selectable": False}, {}])
def test_one_look_at_all_where_samples_are_few_or_not_to_be_had_apart(options: dict[str, bool]) -> None:
    order = RowOrder(2 * FIRST - 1 if not options else 2000, 0, **options)
    assert order.whole
    assert len(order.looks(0)) == 1
    # Those who cannot be asked apart cannot be held out either.
    assert len(order.held_out) == (1000 if options.get("whole") else 0)


def test_blocks_differ_and_a_seed_repeats_all_of_it() -> None:
    order, again, other = RowOrder(4000, 11), RowOrder(4000, 11), RowOrder(4000, 12)
    firsts = [tuple(indices(order, block)[0]) for block in range(5)]
    assert len(set(firsts)) == 5
    assert firsts == [tuple(indices(again, block)[0]) for block in (0, 1, 2, 3, 4)]
    assert torch.equal(order.held_out, again.held_out)
    assert tuple(indices(other, 0)[0]) not in firsts
    assert not torch.equal(order.held_out, other.held_out)
    assert torch.equal(other.reseeded(11).held_out, order.held_out)
    assert [tuple(indices(other.reseeded(11), block)[0]) for block in range(5)] == firsts


def test_a_block_ends_at_random_steps_once_in_sixteen() -> None:
    ends = [step for step in range(8000) if RowOrder(1000, 5).ends_block(step)]
    assert len(ends) == pytest.approx(8000 / BLOCK, rel=0.15)
    assert len({later - earlier for earlier, later in itertools.pairwise(ends)}) > 10  # by no rhythm
    assert ends != [step for step in range(8000) if RowOrder(1000, 6).ends_block(step)]


def test_the_first_look_is_a_fair_sample() -> None:
    """Each open sample comes first equally often."""
    order = RowOrder(1000, 2)
    counts = torch.zeros(1000)
    for block in range(400):
        counts[order.looks(block)[0].rows] += 1
    assert float(counts.mean()) == pytest.approx(400 * FIRST / 1000)
    # Binomial: a standard deviation of 6.7 around 51.2.
    assert float(counts.std()) == pytest.approx(6.7, rel=0.15)
    assert float(counts.min()) > 20
