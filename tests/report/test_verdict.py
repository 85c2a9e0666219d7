"""What counts as held, broken, costly and not settled."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import pytest
from scipy.stats import binom, ttest_1samp

from taster.report.verdict import MARGIN, SUCCESS_MARGIN, DefenceVerdict, Estimate, judge
from taster.stats.proportion import Proportion

Rows = list[dict[str, object]]


def cells(attack: str, defence: str, ends: Sequence[float], **columns: Sequence[object]) -> Rows:
    """Rows of a stream: accuracy at the end for each seed, and other columns."""
    return [
        {"attack": attack, "defence": defence, "seed": seed, "acc_start": 95.0, "acc_after": end}
        | {name: values[seed] for name, values in columns.items()}
        for seed, end in enumerate(ends)
    ]


def verdict(rows: Rows, defence: str = "gate", seeds: int = 3, **names: str | None) -> DefenceVerdict:
    """Of one defence; "honest" attacks nothing and "bare" defends nothing."""
    labels = list(dict.fromkeys(str(row["attack"]) for row in rows))
    found = judge(rows, ["bare", "gate"], seeds, names.get("honest", "honest"), names.get("undefended", "bare"), labels)
    return next(one for one in found if one.defence == defence)


CLEAN = [*cells("honest", "bare", [90.0, 91.0, 92.0]), *cells("honest", "gate", [90.0, 91.0, 92.0])]


def test_bounds_are_those_of_one_sided_t_tests() -> None:
    values = [1.0, 4.0, 2.5, 3.5]
    found = Estimate.of_seeds(values)
    assert (found.mean, found.deviation, found.seeds) == (2.75, pytest.approx(statistics.stdev(values)), 4)
    for bound, side in ((found.lower, "greater"), (found.upper, "less")):
        assert ttest_1samp(values, bound, alternative=side).pvalue == pytest.approx(0.05)


def test_bounds_of_hits_leave_five_percent_on_each_side() -> None:
    found = Estimate.of_hits(Proportion(3, 20), 5)
    assert found.mean == pytest.approx(15.0)
    assert binom.sf(2, 20, found.lower / 100) == pytest.approx(0.05)
    assert binom.cdf(3, 20, found.upper / 100) == pytest.approx(0.05)


def test_one_seed_bounds_nothing_and_settles_nothing() -> None:
    found = Estimate.of_seeds([60.0])
    assert (found.lower, found.upper, found.deviation) == (-math.inf, math.inf, None)
    assert found.status(MARGIN) == "unsettled"
    assert found.seeds_to_settle(MARGIN) is None


@pytest.mark.parametrize("values", [[0.5, 1.5, 2.5], [1.0, 4.0, 2.5, 6.0]])
def test_the_seeds_that_would_settle_it_do_and_one_fewer_does_not(values: list[float]) -> None:
    found = Estimate.of_seeds(values)
    wanted = found.seeds_to_settle(MARGIN)
    assert found.status(MARGIN) == "unsettled"
    assert wanted is not None

    def settled(n: int) -> bool:
        """Whether n seeds with this mean and deviation settle it."""
        assert found.deviation is not None
        half = statistics.fmean([(i - (n - 1) / 2) ** 2 for i in range(n)]) * n / (n - 1)
        spread = [found.mean + (i - (n - 1) / 2) * found.deviation / math.sqrt(half) for i in range(n)]
        return Estimate.of_seeds(spread).status(MARGIN) != "unsettled"

    assert settled(wanted)
    assert wanted == len(values) + 1 or not settled(wanted - 1)


def test_what_lies_on_the_margin_is_settled_by_no_number_of_seeds() -> None:
    assert Estimate.of_seeds([1.0, 2.0, 3.0]).seeds_to_settle(2.0) is None


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ([89.5, 90.6, 91.4], "held"),
        ([80.0, 80.0, 83.0], "broken"),
        ([88.0, 89.5, 89.8], "unsettled"),
        ([90.0, 91.0, 60.0], "unsettled"),
        ([95.0, 95.5, 96.8], "held"),
    ],
)
def test_an_attack_is_held_or_broken_by_its_loss_beside_the_margin(ends: list[float], status: str) -> None:
    found = verdict([*CLEAN, *cells("flip", "gate", ends)])
    assert found.status == status
    (one,) = found.attacks
    assert one.loss is not None
    losses = [clean - end for clean, end in zip((90.0, 91.0, 92.0), ends, strict=True)]
    assert one.loss == Estimate.of_seeds(losses)


def test_one_attack_that_breaks_a_defence_breaks_it_and_decides() -> None:
    rows = [*CLEAN, *cells("flip", "gate", [90.0, 91.0, 92.0]), *cells("mild", "gate", [86.0, 87.0, 88.2])]
    rows += cells("wild", "gate", [90.0, 91.0, 40.0])
    found = verdict(rows)
    assert found.status == "broken"
    loss, worst = found.deciding_loss(), found.worst_loss()
    assert loss is not None
    assert worst is not None
    assert (loss[0].attack, worst[0].attack) == ("mild", "wild")


def test_a_defence_that_costs_more_than_the_margin_by_itself_is_costly_unless_an_attack_adds_to_it() -> None:
    dear = [*CLEAN[:3], *cells("honest", "gate", [80.0, 81.0, 82.0])]
    nothing_added, harmed = cells("flip", "gate", [80.0, 81.0, 82.0]), cells("flip", "gate", [60.0, 61.0, 62.0])
    assert verdict([*dear, *nothing_added]).status == "costly"
    assert verdict([*dear, *harmed]).status == "broken"
    assert verdict([*dear, *cells("door", "gate", [80.0, 81.0, 82.0], asr=[99.0] * 3)]).status == "broken"
    price = verdict([*dear, *nothing_added]).price
    assert price is not None
    assert price.mean == 10.0


@pytest.mark.parametrize(
    ("start", "after", "status"),
    [(1.0, 99.0, "broken"), (30.0, 32.0, "held"), (0.0, 11.0, "broken"), (0.0, 9.0, "held")],
)
def test_a_backdoor_is_counted_over_what_it_was_before_the_attack(start: float, after: float, status: str) -> None:
    door = cells("door", "gate", [90.0, 91.0, 92.0], asr_start=[start] * 3, asr=[after - 0.1, after, after + 0.1])
    found = verdict([*CLEAN, *door])
    assert found.status == status
    success = found.deciding_success()
    assert success is not None
    assert success[1].mean == pytest.approx(after - start)
    assert SUCCESS_MARGIN == 10.0


@pytest.mark.parametrize(("hits", "status"), [(0, "held"), (1, "unsettled"), (10, "broken")])
def test_targets_of_all_seeds_count_together(hits: int, status: str) -> None:
    shares = [100 * hits / 10, 0.0, 0.0]
    rows = cells("aim", "gate", [90.0, 91.0, 92.0], targets=[10] * 3, target_success=shares, poisoned=[5] * 3)
    assert verdict([*CLEAN, *rows]).status == status


def test_no_hit_of_few_targets_is_no_proof() -> None:
    rows = cells("aim", "gate", [90.0, 91.0, 92.0], targets=[1] * 3, target_success=[0.0] * 3, poisoned=[5] * 3)
    assert verdict([*CLEAN, *rows]).status == "unsettled"


def test_a_part_of_the_seeds_is_never_held_but_can_be_broken() -> None:
    half = cells("flip", "gate", [90.0, 91.0, 92.0])
    assert verdict([*CLEAN, *half], seeds=4).status == "unsettled"
    assert verdict([*CLEAN, *cells("flip", "gate", [50.0, 51.0, 52.0])], seeds=4).status == "broken"
    missing = [*CLEAN, *half, *cells("late", "bare", [90.0, 91.0, 92.0])]
    assert verdict(missing).status == "unsettled"


def test_fewer_than_three_seeds_settle_nothing() -> None:
    rows = [*cells("honest", "bare", [90.0, 91.0]), *cells("flip", "bare", [10.0, 11.0])]
    assert verdict(rows, "bare", seeds=2).status == "unsettled"


def test_without_an_undefended_run_each_defence_is_compared_with_itself() -> None:
    rows = [*cells("honest", "gate", [80.0, 81.0, 82.0]), *cells("flip", "gate", [80.0, 81.0, 82.0])]
    assert verdict(rows, undefended=None).status == "held"


def test_without_an_honest_run_a_stream_is_compared_with_its_start_and_a_set_with_nothing() -> None:
    rows = cells("flip", "gate", [60.0, 61.0, 62.0])
    (one,) = verdict(rows, honest=None).attacks
    assert one.loss is not None
    assert one.loss.mean == 34.0
    offline = [{"attack": "flip", "defence": "gate", "seed": s, "accuracy": 60.0, "poisoned": 3} for s in range(3)]
    assert judge(offline, ["gate"], 3, None, None, ["flip"]) == []


def test_an_attack_that_changed_nothing_is_a_control_and_not_judged() -> None:
    idle = cells("targets alone", "gate", [10.0, 11.0, 12.0], poisoned=[0] * 3)
    flip = cells("flip", "gate", [90.0, 91.0, 92.0], poisoned=[3] * 3)
    found = verdict([*CLEAN, *idle, *flip])
    assert ([one.attack for one in found.attacks], found.status) == (["flip"], "held")


def test_bounds_stay_within_what_can_be_lost() -> None:
    wide = Estimate.of_seeds([0.0, 90.0])  # Student's t alone would give 45 ± 284
    assert (wide.mean, wide.lower, wide.upper) == (45.0, -100.0, 100.0)
