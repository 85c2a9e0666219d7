"""Scores taken of what is poisoned and of what it was."""

from __future__ import annotations

import math

import pytest
import torch
from tests.conftest import tiny_batch, tiny_learner

from taster import Batch, Phase, View
from taster.errors import RecipeError
from taster.experiments.recipes.schema import Entry
from taster.experiments.scenarios.score_tracker import ScoreTracker
from taster.scores.base import Score


def measured(score: Score) -> ScoreTracker:
    return ScoreTracker({Entry(name="mine:score", label="s"): score})


def brightness(batch: Batch, view: View) -> torch.Tensor:
    return batch.x.flatten(1).mean(1)


def brightened(clean: Batch, samples: int, by: float = 1.0) -> Batch:
    x = clean.x.clone()
    x[:samples] = (x[:samples] + by).clamp(0, 1)
    return Batch(x, clean.y)


def test_the_changed_samples_are_held_against_what_they_were() -> None:
    measures, clean, view = measured(brightness), tiny_batch(10), tiny_learner().view()
    found = measures.take(Phase.ACCUMULATE, clean, brightened(clean, 4), view)
    assert found == {
        "s": {"clean": pytest.approx(float(clean.x[:4].mean()), rel=1e-5), "poisoned": pytest.approx(1.0)},
    }
    measures.take(Phase.ACCUMULATE, clean, brightened(clean, 6, by=-1.0), view)
    summary = measures.summary()["s"]["accumulate"]
    assert summary["auc"] == pytest.approx(40.0)  # four samples are above all clean ones, six under all
    values = measures.values()
    assert values is not None
    assert len(values["s"]["accumulate"]["clean"]) == len(values["s"]["accumulate"]["poisoned"]) == 10


def test_where_nothing_changed_clean_samples_are_measured_alone() -> None:
    measures, clean, view = measured(brightness), tiny_batch(10), tiny_learner().view()
    found = measures.take(Phase.TRIGGER, clean, clean, view)
    assert list(found["s"]) == ["clean"]
    assert list(measures.summary()["s"]["trigger"]) == ["clean"]
    assert measures.take(Phase.DORMANT, clean, clean, view) == {}


@pytest.mark.parametrize("odd", [math.inf, math.nan])
def test_what_is_not_finite_is_the_most_suspicious_and_not_written_as_a_mean(odd: float) -> None:
    def score(batch: Batch, view: View) -> torch.Tensor:
        return torch.where(batch.x.flatten(1).amin(1) == 1, odd, 0.5)

    measures, clean, view = measured(score), tiny_batch(10), tiny_learner().view()
    found = measures.take(Phase.TRIGGER, clean, brightened(clean, 10), view)
    assert found == {"s": {"clean": 0.5}}
    assert measures.summary() == {"s": {"trigger": {"clean": 0.5, "auc": 100.0}}}


def test_without_scores_there_is_nothing() -> None:
    measures = ScoreTracker({})
    assert measures.take(Phase.TRIGGER, tiny_batch(), tiny_batch(), tiny_learner().view()) == {}
    assert measures.values() is None
    assert measures.summary() == {}


def test_steps_that_an_attack_left_alone_do_not_count_beside_those_it_did_not() -> None:
    measures, clean, view = measured(brightness), tiny_batch(10), tiny_learner().view()
    measures.take(Phase.ACCUMULATE, tiny_batch(10, seed=5), tiny_batch(10, seed=5), view)
    measures.take(Phase.ACCUMULATE, clean, brightened(clean, 4), view)
    values = measures.values()
    assert values is not None
    assert torch.equal(values["s"]["accumulate"]["clean"], brightness(clean, view)[:4])


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda batch, view: 3.0, "returned float, wanted one number a sample, \\[8\\]"),
        (lambda batch, view: torch.zeros(len(batch), 2), "returned \\[8, 2\\]"),
        (lambda batch, view: 1 / 0, "s: mine:score raised ZeroDivisionError"),
    ],
)
def test_a_users_score_that_does_not_keep_the_protocol_is_told(score: Score, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        measured(score).take(Phase.TRIGGER, tiny_batch(), tiny_batch(), tiny_learner().view())


def test_a_score_may_carry_a_graph() -> None:
    learner = tiny_learner()
    score = lambda batch, view: learner.model(batch.x).sum(1)  # noqa: E731
    assert measured(score).take(Phase.TRIGGER, tiny_batch(), tiny_batch(), learner.view())["s"]["clean"] is not None
