"""Two processes that train one model: one verdict, the same bits, and never a wait without an end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.core import rank_cases as cases
from tests.core.pair import Failure, Pair
from torch import distributed

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo")

APIS = pytest.mark.parametrize("api", ["learner", "guarded"])


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def same_in_both(found: list[Any]) -> Any:
    assert not any(isinstance(part, Failure) for part in found), found
    assert found[0] == found[1]
    return found[0]


def actions(steps: list[Any]) -> list[str]:
    return [step[2] for step in steps]


@APIS
@pytest.mark.parametrize("batch_norm", [False, True])
def test_gates_that_differ_end_in_one_verdict(pair: Pair, api: str, batch_norm: bool) -> None:
    steps = same_in_both(pair.run(cases.differing_gates, api, batch_norm))
    wanted = ["COMMIT"] * 10
    wanted[2] = wanted[5] = "REJECT"
    wanted[7] = "REWIND"
    assert actions(steps) == wanted
    assert steps[2][5] == "process 1 says no"
    assert steps[2][-1] == steps[1][-1]  # not a bit was left by it
    assert steps[7][-1] == steps[4][-1]  # two steps back: the state before step 5, which was refused


@APIS
@pytest.mark.parametrize("batch_norm", [False, True])
def test_poison_in_one_process_is_refused_in_both(pair: Pair, api: str, batch_norm: bool) -> None:
    steps, accuracy = same_in_both(pair.run(cases.poison_in_one, api, batch_norm))
    assert actions(steps)[14:18].count("COMMIT") <= batch_norm  # which dampens it
    assert actions(steps)[:14].count("COMMIT") > 10
    assert accuracy > 95


@APIS
@pytest.mark.parametrize("batch_norm", [False, True])
def test_an_empty_guard_is_distributed_data_parallel(pair: Pair, api: str, batch_norm: bool) -> None:
    first, second = pair.run(cases.plain_loop, api, batch_norm)
    assert not isinstance(first, Failure), first
    for one, other in zip(first, second, strict=True):
        assert len({*one[:2], *other[:2]}) == 1  # parameters
        assert one[2] == one[3] == other[2]  # and buffers: those of the first process are those of all


@APIS
@pytest.mark.parametrize("what", ["drops", "one left"])
def test_a_batch_dropped_in_one_process_is_dropped_in_both(pair: Pair, api: str, what: str) -> None:
    steps, other = pair.run(cases.screened, api, what)
    assert [step[:5] + step[6:] for step in steps] == [step[:5] + step[6:] for step in other]
    assert actions(steps) == ["COMMIT", "COMMIT", "REJECT", "COMMIT", "COMMIT"]
    reason = "all of it is bad" if what == "drops" else "a single sample"
    assert "in process 1" in steps[2][5]
    assert reason in steps[2][5]
    assert reason in other[2][5]
    assert steps[2][-1] == steps[1][-1]


@APIS
def test_a_screen_that_raises_in_one_process_raises_in_both(pair: Pair, api: str) -> None:
    first, second = pair.run(cases.screened, api, "raises")
    assert first.startswith("RankError: process 1 failed at the screens")
    assert "the screen is broken" in first
    assert second == "ValueError: the screen is broken"


@APIS
def test_a_gate_that_raises_in_one_process_raises_in_both_and_training_goes_on(pair: Pair, api: str) -> None:
    first, second = pair.run(cases.failing_gate, api)
    assert first[0].startswith("RankError: process 1 failed at the gates")
    assert second[0] == "ValueError: the gate is broken"
    assert first[1] == second[1]
    assert actions(first[1]) == ["COMMIT"]


@APIS
@pytest.mark.parametrize("where", ["samples", "loss"])
def test_what_is_not_finite_in_one_process_is_refused_in_both(pair: Pair, api: str, where: str) -> None:
    first, second = pair.run(cases.not_finite, api, where)
    assert actions(first) == actions(second) == ["COMMIT", "COMMIT", "REJECT", "COMMIT", "COMMIT"]
    assert [step[-1] for step in first] == [step[-1] for step in second]
    assert first[2][4] == second[2][4] == "finite_values"
    assert first[2][-1] == first[1][-1]


def test_the_scale_is_the_same_in_both(pair: Pair) -> None:
    steps = same_in_both(pair.run(cases.scaled))
    assert actions(steps) == ["COMMIT", "REJECT", "COMMIT", "REJECT", "COMMIT", "COMMIT"]
    # An overflow lowers it; of a loss that is not finite nothing is learned.
    assert [step[-1] for step in steps] == [1024.0, *[512.0] * 5]


def test_half_a_batch_is_salvaged_in_both(pair: Pair) -> None:
    steps = same_in_both(pair.run(cases.salvaged, 8))
    assert actions(steps) == ["COMMIT"] * 4
    assert steps[2][5] == "learned 4 of 8 samples: no"
    too_few = same_in_both(pair.run(cases.salvaged, 5))
    assert actions(too_few) == ["COMMIT", "COMMIT", "REJECT", "COMMIT"]
    assert too_few[2][-1] == too_few[1][-1]


@pytest.mark.parametrize(("in_both", "said"), [(True, "8 of 8 samples, corrected"), (False, "4 of 8 samples")])
def test_a_correction_is_tried_in_both_or_in_neither(pair: Pair, in_both: bool, said: str) -> None:
    steps = same_in_both(pair.run(cases.corrected, in_both))
    assert actions(steps) == ["COMMIT"] * 4
    assert steps[2][5] == f"learned {said}: no"


@pytest.mark.parametrize(("what", "text"), [("data", "other trusted data in process 1"), ("guard", "got Guard()")])
def test_another_probe_or_guard_in_one_process_is_refused(pair: Pair, what: str, text: str) -> None:
    for found in pair.run(cases.other_probe, what):
        assert found.startswith("RankError: ")
        assert text in found


def test_a_probe_that_is_replaced_in_one_process_is_refused(pair: Pair) -> None:
    first, second = pair.run(cases.renewed_in_one)
    assert "process 1 at the check of the guard and process 0 at the screens" in first
    assert "process 0 at the screens and process 1 at the check of the guard" in second


def test_a_model_on_its_own_is_refused_with_what_to_do(pair: Pair) -> None:
    for found in pair.run(cases.alone, "auto"):
        assert found.startswith("ModelError: ")
        assert "process_group=None" in found
        assert "WORLD" in found
    assert pair.run(cases.alone, "none") == [(True, 1)] * 2


def test_a_loop_that_averages_gradients_itself(pair: Pair) -> None:
    undone, record = same_in_both(pair.run(cases.by_hand))
    assert undone
    assert record[2] == "REJECT"


@pytest.mark.parametrize("how", ["fully_shard", "FullyShardedDataParallel"])
def test_sharded_parameters_are_refused(pair: Pair, how: str) -> None:
    for found in pair.run(cases.sharded, how):
        assert found.startswith("ModelError: ")
        assert "sharded" in found


def test_several_models(pair: Pair) -> None:
    assert pair.run(cases.several, "compiled") == [2, 2]
    assert pair.run(cases.several, "frozen beside") == [2, 2]
    for found in pair.run(cases.several, "one outside"):
        assert "outside DistributedDataParallel" in found


@pytest.mark.parametrize(("samples", "own"), [(1, [1, 1]), (2, [1, 1]), (7, [3, 4]), (8, [4, 4])])
def test_trusted_samples_are_shared_out(pair: Pair, samples: int, own: list[int]) -> None:
    assert pair.run(cases.shared_out, samples) == own


@pytest.mark.parametrize(("inside", "place"), [(False, "the gates"), (True, "the measurement")])
def test_a_failure_at_any_depth_is_told_once(pair: Pair, inside: bool, place: str) -> None:
    first, second = pair.run(cases.elsewhere, inside)
    assert first.startswith(f"RankError: process 1 failed at {place}")
    assert second == "ValueError: out of memory, say"


def test_buffers_of_their_own_stay_so(pair: Pair) -> None:
    first, second = pair.run(cases.own_buffers)
    assert first != second


def test_as_many_updates_in_each(pair: Pair) -> None:
    for found in pair.run(cases.updates_differ):
        assert found == "RankError: got [1, 0] updates in the processes, wanted as many in each"


def test_a_block_that_raises_in_one_process_leaves_no_other_waiting(pair: Pair) -> None:
    first, second = pair.run(cases.dead_end, timeout=2)
    assert isinstance(first, Failure)
    assert second == "ValueError: the block is broken"


def test_data_parallel(pair: Pair) -> None:
    assert pair.run(cases.with_data_parallel) == [(True, True)] * 2
