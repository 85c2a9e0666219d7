"""Federated recipes: whole runs, what they leave, and what they refuse to begin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taster.errors import RecipeError
from taster.experiments import RunDirectory, read_recipe, run_recipe
from taster.federated import AGGREGATORS
from taster.report import write_report

FEDERATED = """
[federated]
clients = 12
clients_per_round = 8
samples = 3
malicious_fraction = 0.25
[federated.aggregator]
name = "coordinate_median"
[compute]"""

DEFENCES = '[[defence]]\nname = "none"\n[[defence]]\nname = "probe_gate"\n'


@pytest.fixture
def federated(recipe_with: Callable[..., Path]) -> Callable[..., Path]:
    def make(*changes: tuple[str, str], attacks: str = '[[attack]]\nname = "sign_flip"\nscale = 5.0\n') -> Path:
        old = '[[attack]]\nname = "accumulative"\nepsilon = 0.2\npgd_steps = 2\nvalidation_size = 40\n'
        return recipe_with(("[compute]", FEDERATED), (old, attacks), *changes)

    return make


@pytest.mark.parametrize(("clients", "same"), [("synchronized", "train"), ("recorded", "eval")])
def test_an_attack_on_samples_crafts_with_what_the_clients_normalize_with(
    clients: str, same: str, federated: Callable[..., Path], tmp_path: Path
) -> None:
    entry = '[[attack]]\nname = "vanilla_trigger"\nlabel = "{0}"\nepsilon = 0.2\npgd_steps = 2\nvalidation_size = 40\n'
    chosen = [entry.format("open"), *(entry.format(mode) + f'batch_norm = "{mode}"\n' for mode in ("train", "eval"))]
    path = federated(('"mlp"\nhidden = [16]', '"small_cnn"\nwidth = 4'), attacks="".join(chosen))
    recipe = read_recipe(str(path), [f"federated.batch_norm={clients}", "seeds=1", "federated.malicious_fraction=1.0"])
    run_recipe(recipe, tmp_path / "run", jobs=1)
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    struck = {
        step["attack"]: step["gradient_norm_before"]
        for step in steps
        if step["phase"] == "trigger" and step["defence"] == "none" and step["attack"] != "none"
    }
    assert struck["open"] == struck[same]
    assert len(set(struck.values())) == 2


def bare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "cost")} for row in rows]


def test_a_federated_run_leaves_what_an_online_one_does_and_gives_the_same_bits(
    federated: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = read_recipe(str(federated()))
    rows = run_recipe(recipe, tmp_path / "a", jobs=1)
    assert len(rows) == 2 * 2 * 2
    assert bare(run_recipe(recipe, tmp_path / "b", jobs=1)) == bare(rows)
    for row in rows:
        assert row["drop"] == row["acc_after"] - row["acc_before"]
        assert row["worst_step"] <= min(0.0, row["drop"]) + 1e-9
        assert row["dropped_clients"] == 0
        assert row["steps"] == 2
    steps = [json.loads(line) for line in (tmp_path / "a" / "steps.jsonl").read_text().splitlines()]
    assert {(s["attack"], s["samples"], s["poisoned"]) for s in steps} == {("none", 8, 0), ("sign_flip", 8, 2)}
    assert all(s["clients_dropped"] == {} for s in steps)
    page = write_report(RunDirectory(tmp_path / "a"))
    assert "Every attack against every defence" in page.read_text()
    assert RunDirectory(tmp_path / "a").recipe() == recipe.with_compute(device="cpu", threads=1)


def test_a_run_goes_on_where_it_was_stopped(federated: Callable[..., Path], tmp_path: Path) -> None:
    recipe = read_recipe(str(federated()))
    whole = run_recipe(recipe, tmp_path / "run", jobs=1)
    first = RunDirectory(tmp_path / "run").cell("sign_flip", "probe_gate", 1)
    (first.path / "cell.json").unlink()
    assert bare(run_recipe(recipe, tmp_path / "run", jobs=1, resume=True)) == bare(whole)


@pytest.mark.parametrize("split", ["dirichlet", "single"])
def test_splits_and_local_epochs(split: str, federated: Callable[..., Path], tmp_path: Path) -> None:
    recipe = read_recipe(
        str(federated()),
        [f"federated.partition={split}", "federated.local_epochs=2", "federated.local_batch_size=2", "seeds=1"],
    )
    rows = run_recipe(recipe, tmp_path / "run", jobs=1)
    assert all(row["acc_after"] > 0 for row in rows)


def test_every_rule_can_be_a_defence_and_every_attack_run_against_it(
    federated: Callable[..., Path], tmp_path: Path
) -> None:
    names = [name for name in AGGREGATORS if name != "bulyan"]
    rules = (
        "".join(f'[[defence]]\nname = "{name}"\n' for name in names)
        + '[[defence]]\nname = "bulyan"\nnum_byzantine = 1\n'
    )
    attacks = "".join(
        f'[[attack]]\nname = "{name}"\n'
        for name in (
            "label_flip",
            "accumulative_updates",
            "reverse_trigger",
            "alie",
            "min_max",
            "min_sum",
            "mimic",
            "ipm",
        )
    )
    path = federated((DEFENCES, rules), attacks=attacks)
    recipe = read_recipe(str(path), ["seeds=1", "schedule.steps=1", "split.validation=100"])
    rows = run_recipe(recipe, tmp_path / "run", jobs=1)
    assert len(rows) == 9 * len(AGGREGATORS)
    assert all(row["rejected"] == 0 for row in rows)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("federated.clients_per_round=13", "wanted at most clients = 12"),
        ("split.trigger=7", "sample for each client"),
        ("federated.malicious_fraction=1.5", "federated.malicious_fraction"),
        ("federated.clienst=3", "federated.clienst: got an unknown key"),
        ("federated.aggregator.name=krumm", "got 'krumm', wanted one of mean"),
        ("federated.aggregator.num_byzantine=2", "federated.aggregator.num_byzantine: got an unknown key"),
        ("attack.1.name=guard_aware", "guard_aware"),
        ("attack.1.scale=-1", "attack.1.scale"),
        ("split.stream=11", "wanted at least federated.clients = 12"),
    ],
)
def test_faults_are_told_before_any_work(change: str, wanted: str, federated: Callable[..., Path]) -> None:
    changes = [change, "federated.aggregator.name=coordinate_median"] if "num_byzantine" in change else [change]
    if "guard_aware" in change:
        path = federated(attacks='[[attack]]\nname = "guard_aware"\n')
        changes = []
    else:
        path = federated()
    with pytest.raises(RecipeError, match=wanted):
        read_recipe(str(path), changes)


def test_synchronized_statistics_do_not_go_with_local_epochs(federated: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match="where clients' models differ"):
        read_recipe(str(federated()), ["federated.batch_norm=synchronized", "federated.local_epochs=1"])


def test_what_is_for_federations_is_refused_online(recipe_with: Callable[..., Path]) -> None:
    for old, new in (
        ('name = "none"\n[[attack]]', 'name = "alie"\n[[attack]]'),
        ('name = "probe_gate"', 'name = "krum"'),
    ):
        with pytest.raises(RecipeError, match=r"without \[federated\]"):
            read_recipe(str(recipe_with((old, new))))


def test_scores_of_samples_are_refused(federated: Callable[..., Path]) -> None:
    path = federated((DEFENCES, DEFENCES + '[[score]]\nname = "loss"\n'))
    with pytest.raises(RecipeError, match="the server sees none"):
        read_recipe(str(path))


def test_defences_are_joined_and_a_guard_that_rewinds_gets_its_history(
    federated: Callable[..., Path], tmp_path: Path
) -> None:
    joined = '[[defence]]\nname = "probe_gate"\nlabel = "joined"\nmax_rewind = 2\nplus = ["clipping", "krum"]\n'
    recipe = read_recipe(str(federated((DEFENCES, joined))), ["seeds=1"])
    rows = run_recipe(recipe, tmp_path / "run", jobs=1)
    assert {row["defence"] for row in rows} == {"joined"}
    assert all(row["detection_bound"]["checks"] > 0 for row in rows)
    lines = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    # krum takes the update of one client, which is longer than the clip lets through.
    assert all(0.9 < line["gradient_norm_after"] <= 1.0 + 1e-5 < line["gradient_norm_before"] for line in lines)


def test_two_rules_of_aggregation_are_refused(federated: Callable[..., Path], tmp_path: Path) -> None:
    two = '[[defence]]\nname = "krum"\nplus = ["coordinate_median"]\n'
    with pytest.raises(RecipeError, match=r"defence krum: got 2 rules of aggregation, wanted one at most"):
        run_recipe(read_recipe(str(federated((DEFENCES, two)))), tmp_path / "run", jobs=1)


def test_a_history_that_is_too_short_is_told(federated: Callable[..., Path], tmp_path: Path) -> None:
    back = '[[defence]]\nname = "probe_gate"\nmax_rewind = 9\n'
    recipe = read_recipe(str(federated((DEFENCES, back))), ["history.capacity=2"])
    with pytest.raises(RecipeError, match="rewinds up to 9 steps where the history reaches back 1"):
        run_recipe(recipe, tmp_path / "run", jobs=1)


def test_attacks_that_want_the_learning_rate_poison_the_samples_of_clients(
    federated: Callable[..., Path], tmp_path: Path
) -> None:
    attack = '[[attack]]\nname = "direct_gradient"\niterations = 2\ngroup_size = 30\n'
    rows = run_recipe(read_recipe(str(federated(attacks=attack)), ["seeds=1"]), tmp_path / "run", jobs=1)
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert {(s["attack"], s["phase"], s["poisoned"]) for s in steps if s["poisoned"]} == {
        ("direct_gradient", "trigger", 2)
    }


def test_an_attack_on_other_samples_is_told_before_any_training(federated: Callable[..., Path], tmp_path: Path) -> None:
    attack = '[[attack]]\nname = "token_substitution"\nvalidation_size = 40\n'
    with pytest.raises(RecipeError, match=r"attack token_substitution: .* wanted token ids, int64"):
        run_recipe(read_recipe(str(federated(attacks=attack))), tmp_path / "run", jobs=1)
    assert not (tmp_path / "run").exists()
