"""A refused or failed step changes no bit, and the next honest step is that of a twin which never saw it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.zoo import FAILURES, MODELS, OPTIMIZERS, SCHEDULERS, Subject, fits, same

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")


def check(model: str, optimizer: str, scheduler: str, failures: list[str], steps: int) -> None:
    learner, twin = Subject(model, optimizer, scheduler), Subject(model, optimizer, scheduler)
    for seed in range(steps):
        learner.honest(seed)
        twin.honest(seed)
    for how in failures:
        before = learner.everything()
        learner.fail(how)
        after = learner.everything()
        if how in ("gate rejects", "loss is NaN"):  # a refusal is a step: it is counted and observed
            for part in (before, after):
                for key in ("steps", "refusals", "counters", "alarm", "guard"):
                    del part["learner"][key]
        assert same(before, after), how
    before, beside = learner.honest(50), twin.honest(50)
    assert before.loss == beside.loss
    mine, other = learner.everything(), twin.everything()
    del mine["learner"], other["learner"]  # counts differ where refusals were counted
    assert same(mine, other)


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("model", MODELS)
def test_no_model_keeps_a_trace(model: str, how: str) -> None:
    check(model, "sgd", "none", [how, how], steps=0)
    check(model, "adagrad", "step", [how], steps=2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_optimizer_keeps_a_trace(optimizer: str) -> None:
    model = "sparse tokens" if optimizer == "sparse adam" else "batch norm"
    check(model, optimizer, "cyclic", list(FAILURES), steps=0)
    check(model, optimizer, "lambda", list(FAILURES), steps=2)


def test_no_combination_keeps_a_trace(thorough: bool) -> None:
    pairs = [(model, optimizer) for model in MODELS for optimizer in OPTIMIZERS if fits(model, optimizer)]

    @settings(max_examples=400 if thorough else 25, deadline=None, database=None, derandomize=not thorough)
    @given(
        st.sampled_from(pairs),
        st.sampled_from(sorted(SCHEDULERS)),
        st.lists(st.sampled_from(FAILURES), min_size=1, max_size=3),
        st.integers(0, 3),
    )
    def any_of_them(pair: tuple[str, str], scheduler: str, failures: list[str], steps: int) -> None:
        check(*pair, scheduler, failures, steps)

    any_of_them()
