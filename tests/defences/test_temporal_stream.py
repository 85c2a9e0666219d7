"""Temporal aggregation on a stream: what it proves holds whatever the newest batches are, and is never above what an
attack leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import run_recipe

from taster import Batch
from taster.defences import TemporalStream, temporal_aggregation_stream
from taster.defences.training import SGDSettings
from taster.defences.training.temporal_stream import WindowEnsemble
from taster.errors import BatchError, LabelError, RecipeError
from taster.experiments import read_recipe
from taster.report.summary import result_table, summarize

SMALL = SGDSettings(epochs=3, batch_size=8, learning_rate=0.3)


def batch(seed: int, n: int = 8) -> Batch:
    """Three classes, each with one column that is larger."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    return Batch(torch.rand(n, 3, generator=g) + torch.eye(3)[y], y)


def poison(clean: Batch) -> Batch:
    return Batch(torch.rand(clean.x.shape, generator=torch.Generator().manual_seed(9)), torch.zeros_like(clean.y))


def ensemble(bad: range | tuple[()] = (), models: int = 7, coverage: int = 2, steps: int = 9) -> WindowEnsemble:
    """After so many steps, of which those in `bad` were poisoned."""
    found = temporal_aggregation_stream(models=models, coverage=coverage, hidden=[], sgd=SMALL).start(3)
    for i in range(steps):
        found.learn(poison(batch(i)) if i in bad else batch(i))
    return found


def test_certified_labels_stand_wherever_poison_of_that_duration_is() -> None:
    x = batch(99, 60).x
    clean = ensemble().predict(x)
    assert int(clean.duration.max()) >= 2
    changed = False
    for lasts in (1, 2, 3):
        for begins in range(9 - lasts + 1):
            labels = ensemble(range(begins, begins + lasts)).predict(x).labels
            certain = clean.duration >= lasts
            assert torch.equal(labels[certain], clean.labels[certain])
            recent = clean.earliness >= 9 - begins
            assert torch.equal(labels[recent], clean.labels[recent])
            changed |= bool((labels != clean.labels).any())
    assert changed, "poison that changes nothing would show nothing"


def test_certified_accuracy_counts_what_is_right_and_withstands() -> None:
    test, found = batch(98, 50), ensemble()
    predicted = found.predict(test.x)
    right = predicted.labels == test.y
    left = found.certified_accuracy(test.x, test.y, [0, 2, 100])
    assert left == {
        0: 100 * float(right.double().mean()),
        2: 100 * float((right & (predicted.duration >= 2)).double().mean()),
        100: 0.0,
    }
    assert found.accuracy(test.x, test.y) == pytest.approx(left[0])


def test_models_that_poison_did_not_reach_are_the_same_to_the_bit_and_old_ones_go() -> None:
    x = batch(97, 20).x
    clean, bad = ensemble(), ensemble(range(5, 6))
    same = (clean._votes(x) == bad._votes(x)).all(0)
    # Nine steps make eight models of two batches each, of which the newest seven are kept; step 5 is in two of them.
    assert len(clean) == 7
    assert [i for i in range(7) if not bool(same[i])] <= [3, 4]
    scores = zip(clean._models, bad._models, strict=True)
    assert [not torch.equal(a.scores(x), b.scores(x)) for a, b in scores] == [False] * 3 + [True] * 2 + [False] * 2


def test_before_all_models_are_there_nothing_is_certified() -> None:
    short = ensemble(steps=7)
    assert not short.complete
    assert short.accuracy(batch(1).x, batch(1).y) > 50
    with pytest.raises(BatchError, match="got 7 steps, wanted 8"):
        short.predict(batch(1).x)
    with pytest.raises(LabelError):
        short.learn(Batch(batch(1).x, torch.full((8,), 3)))


ENSEMBLE = """
[[defence]]
name = "temporal_aggregation_stream"
models = 15
coverage = 2
epochs = 20
batch_size = 8
"""


def test_a_recipe_has_the_votes_accuracy_and_certificates_never_above_what_attacks_leave(
    recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe_with()
    text = path.read_text()
    head = text[: text.index("[[attack]]")]
    path.write_text(
        head
        + '[[attack]]\nname = "none"\n[[attack]]\nname = "label_flip"\ntarget_class = 0\n[[defence]]\nname = "none"\n'
        + ENSEMBLE
    )
    overrides = ["seeds=[0]", "schedule.steps=1", "schedule.dormant=16"]
    rows = {(r["attack"], r["defence"]): r for r in run_recipe(read_recipe(str(path), overrides), tmp_path / "run")}
    clean, bad = (rows[name, "temporal_aggregation_stream"] for name in ("none", "label_flip"))
    assert "certified" not in rows["none", "none"]
    assert clean["certified"]["0"] == clean["acc_after"]
    assert clean["certified"]["2"] > 0
    assert clean["certified"]["2"] <= bad["acc_after"]
    assert list(clean["certified"].values()) == sorted(clean["certified"].values(), reverse=True)
    heads, lines = result_table(summarize(list(rows.values())))
    column = heads.index("certified")
    assert [line[column] == "–" for line in lines] == [row["defence"] == "none" for row in rows.values()]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("", r"schedule.dormant: got 0, wanted at least the 16 steps before 15 models of 2 steps"),
        ('plus = ["clipping"]\n', r"wanted it alone"),
    ],
)
def test_what_does_not_fit_is_found_before_any_training(
    extra: str, message: str, recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe_with()
    path.write_text(path.read_text() + ENSEMBLE + extra)
    with pytest.raises(RecipeError, match=message):
        run_recipe(read_recipe(str(path), ["seeds=[0]", "schedule.dormant=0"]), tmp_path / "run")


def test_the_settings_are_told() -> None:
    made = temporal_aggregation_stream(models=4, coverage=3)
    assert isinstance(made, TemporalStream)
    assert made.periods == 6
