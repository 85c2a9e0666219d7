"""Recipes whose samples are token ids or rows of a table: on a stream, before training, and what they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import run_recipe

from taster.errors import RecipeError, TasterError
from taster.experiments import Recipe, read_recipe
from taster.experiments.run_directory import RunDirectory
from taster.experiments.running.dry_run import dry_run
from taster.experiments.running.progress import NoProgress
from taster.experiments.running.tasks import seed_context
from taster.report import write_report

STREAM = """
name = "tiny-stream"
seeds = [0]

[data]
source = "FILE"
table = {TABLE}

[split]
burn_in = 80
stream = 80
trigger = 16
validation = 30
monitor = 30
probe = 30
test = 60

[model]
MODEL

[burn_in]
epochs = 6
batch_size = 8
learning_rate = 0.3

[stream]
batch_size = 16
learning_rate = 0.1

[schedule]
steps = 4

[defaults.attack]
validation_size = 20
poison_fraction = 0.5

[[attack]]
name = "none"

[[attack]]
name = "label_flip"

[[attack]]
name = "random_edits"
edits = 2

[[attack]]
name = "ATTACK"
edits = 2

[[defence]]
name = "none"
"""

OFFLINE = """
name = "tiny-set"
seeds = [0]

[data]
source = "FILE"
table = {TABLE}

[split]
validation = 30
probe = 30
test = 60

[model]
MODEL

[offline]
epochs = 15
learning_rate = 0.5
batch_size = 16

[[attack]]
name = "none"

[[attack]]
name = "label_flip"
poison_fraction = 0.2

[[attack]]
name = "token_substitution"
poison_fraction = 0.5
edits = 2
validation_size = 20

[[defence]]
name = "none"

[[defence]]
name = "trimmed_loss"
keep = 0.8
"""

TOKENS = 'label = 0, text = 1, words = "tokens", length = 5'
NET = 'name = "token_net"\nwidth = 8\nhidden = 8'


def texts(folder: Path) -> Path:
    words = {"ham": ["lunch", "meet", "home", "work", "later"], "spam": ["win", "cash", "prize", "now", "free"]}
    lines = []
    for i in range(340):
        label = "spam" if i % 3 == 0 else "ham"
        lines.append(f"{label}\t{words[label][i % 5]} {words[label][(i + 2) % 5]} number{i % 7} noise{i % 11}")
    (folder / "sms.tsv").write_text("\n".join(lines) + "\n")
    return folder / "sms.tsv"


def numbers(folder: Path) -> Path:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(340) % 2
    x = torch.rand(340, 4, generator=g) + 0.7 * y[:, None]
    lines = [",".join(f"{v:.4f}" for v in row) + f",k{k}" for row, k in zip(x.tolist(), y.tolist(), strict=True)]
    (folder / "numbers.csv").write_text("\n".join(["a,b,c,d,kind", *lines]))
    return folder / "numbers.csv"


def recipe_of(folder: Path, text: str, *changes: tuple[str, str]) -> Recipe:
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    (folder / "recipe.toml").write_text(text)
    return read_recipe(str(folder / "recipe.toml"))


def of_tokens(folder: Path, *changes: tuple[str, str], text: str = STREAM) -> Recipe:
    given = (("FILE", str(texts(folder))), ("TABLE", TOKENS), ("MODEL", NET), ("ATTACK", "token_substitution"))
    return recipe_of(folder, text, *[(old, new) for old, new in given if old in text], *changes)


def of_columns(folder: Path, *changes: tuple[str, str]) -> Recipe:
    given = (("FILE", str(numbers(folder))), ("TABLE", 'label = "kind"'), ("MODEL", 'name = "mlp"\nhidden = [8]'))
    return recipe_of(folder, STREAM, *given, ("ATTACK", "column_changes"), *changes)


@pytest.mark.parametrize("made", [of_tokens, of_columns])
def test_a_stream_learns_is_poisoned_and_has_a_page(made: Any, tmp_path: Path) -> None:
    recipe = made(tmp_path)
    rows = {(row["attack"], row["defence"]): row for row in run_recipe(recipe, tmp_path / "run", jobs=1)}
    assert len(rows) == 4
    assert rows["none", "none"]["acc_start"] > 85
    assert rows["none", "none"]["acc_after"] > 85
    directory = RunDirectory(tmp_path / "run")
    for attack in ("label_flip", "random_edits", recipe.attack[3].label):
        lines = directory.cell(attack, "none", 0).steps()
        poisoned = [line["poisoned"] for line in lines]
        assert len(poisoned) == 5
        assert poisoned == [8] * 5 if attack == "label_flip" else 1 <= min(poisoned) <= max(poisoned) <= 8
    assert "tiny-stream" in write_report(directory).read_text()


def test_the_vocabulary_is_that_of_the_burn_in_and_values_keep_to_its_range(tmp_path: Path) -> None:
    context = seed_context(of_tokens(tmp_path), 0)
    data = context.data
    assert data.vocabulary is not None
    burnt_in = context.roles["burn_in"].x
    assert int(context.roles["burn_in"].x.max()) == data.vocabulary - 1
    assert bool((burnt_in != 1).all()), "no word of the burn-in is unknown"
    rows = seed_context(of_columns(tmp_path), 0)
    assert rows.data.vocabulary is None
    for role in ("stream", "test"):
        x = rows.roles[role].x  # type: ignore[index]
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1
    assert [float(rows.roles["burn_in"].x.min()), float(rows.roles["burn_in"].x.max())] == [0, 1]


def test_texts_as_tokens_are_trained_on_from_scratch(tmp_path: Path) -> None:
    text = OFFLINE[: OFFLINE.index('[[attack]]\nname = "label_flip"')] + '[[defence]]\nname = "none"\n'
    (row,) = run_recipe(of_tokens(tmp_path, text=text), tmp_path / "run", jobs=1)
    assert row["accuracy"] > 85


def test_a_trained_model_of_tokens_is_trained_on(tmp_path: Path) -> None:
    changes = (("learning_rate = 0.5", 'mode = "fine_tune"'), ("test = 60", "test = 60\nburn_in = 80"))
    recipe = of_tokens(
        tmp_path,
        *changes,
        (
            '[[attack]]\nname = "none"',
            '[burn_in]\nepochs = 5\nlearning_rate = 0.3\nbatch_size = 8\n\n[[attack]]\nname = "none"',
        ),
        text=OFFLINE,
    )
    rows = run_recipe(recipe, tmp_path / "run", jobs=1)
    assert rows[0]["accuracy"] > 85


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[schedule]", "[federated]\n\n[schedule]"), r"data.table: got a table with \[federated\]"),
        (('words = "tokens"', 'words = "counts"'), "data.table.length: got one with words = 'counts'"),
        (
            ('words = "tokens"', 'words = "n"'),
            "has 1 fault:\n  data.table.words: got 'n', wanted 'presence', 'counts', 'tfidf' or 'tokens'",
        ),
        (("text = 1, ", ""), 'data.table.words: got "tokens" without data.table.text'),
        (("[stream]", "[stream]\nflip = true"), "stream.crop, stream.flip: got one with data.table"),
        (("[burn_in]", "[burn_in]\ncrop = 2"), "burn_in.crop, burn_in.flip: got one with data.table"),
    ],
)
def test_keys_that_do_not_go_together(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        of_tokens(tmp_path, change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((NET, 'name = "mlp"'), r"mlp cannot take samples of \[5\]"),
        (('name = "label_flip"', 'name = "random_noise"'), "attack random_noise: got samples of torch.int64"),
        (('name = "label_flip"', 'name = "column_changes"'), "attack column_changes: column_changes: got samples of"),
        (
            ('words = "tokens", length = 5', 'words = "presence"'),
            r"token_net: got samples \[.*\] that are no token ids",
        ),
    ],
)
def test_what_does_not_go_with_tokens_is_found_before_any_training(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TasterError, match=message):
        dry_run(of_tokens(tmp_path, change), NoProgress())


def test_substitutions_of_tokens_in_numbers_are_found_before_any_training(tmp_path: Path) -> None:
    recipe = of_columns(tmp_path, ('name = "label_flip"', 'name = "token_substitution"'))
    with pytest.raises(RecipeError, match=r"attack token_substitution: .* wanted token ids, int64"):
        dry_run(recipe, NoProgress())


def test_estimators_are_no_models_of_ids(tmp_path: Path) -> None:
    estimator = 'name = "sklearn"\nestimator = "sklearn.naive_bayes:MultinomialNB"'
    with pytest.raises(RecipeError, match=r'data.table.words: got "tokens" with the estimator'):
        dry_run(of_tokens(tmp_path, (NET, estimator), text=OFFLINE), NoProgress())


@pytest.mark.parametrize("name", ["tokens-spam", "columns-spam"])
def test_the_recipes_that_are_shipped_can_be_read(name: str) -> None:
    recipe = read_recipe(name)
    assert {recipe.factory("attack", entry).name for entry in recipe.attack} >= {"none", "label_flip", "random_edits"}
