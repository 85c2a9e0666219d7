"""The sentence on top of a page, for each scenario and case."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from taster.experiments import Recipe
from taster.report.verdict import judge
from taster.report.verdict_text import headline

SCENES: dict[str, dict[str, Any]] = {
    "stream": {"split": {"burn_in": 10, "trigger": 5}},
    "federation": {"split": {"burn_in": 10, "trigger": 5}, "federated": {}},
    "training set": {"split": {}, "offline": {}},
}
CLEAN = (90.0, 90.2, 90.4)


def sentence(
    ends: Mapping[tuple[str, str], Sequence[float]], scene: str = "stream", seeds: int = 3, **more: Any
) -> str:
    """The first sentence for accuracies at the end, by attack and defence; "none" is the control of both kinds, in a
    federation "mean" that of defences."""
    attacks, defences = (list(dict.fromkeys(key[i] for key in ends)) for i in (0, 1))
    columns, settings = more.get("columns", {}), more.get("settings", {})
    names = [{"label": label, "name": label if label in ("none", "mean") else "x:y"} for label in defences]
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "model": {"name": "small_cnn"},
            "seeds": seeds,
            "data": more.get("data", {}),
            "attack": [{"name": "none" if a == "none" else "x:y", "label": a, **settings.get(a, {})} for a in attacks],
            "defence": names,
            **SCENES[scene],
        }
    )
    key = "accuracy" if scene == "training set" else "acc_after"
    rows = [
        {"attack": attack, "defence": defence, "seed": seed, key: end}
        | {name: values[seed] for name, values in columns.get((attack, defence), {}).items()}
        for (attack, defence), values in ends.items()
        for seed, end in enumerate(values)
    ]
    undefended = next((label for label in ("none", "mean") if label in defences), None)
    verdicts = judge(rows, defences, seeds, "none" if "none" in attacks else None, undefended, attacks)
    found = headline(recipe, verdicts, undefended)
    assert found.sentence.startswith(f"{found.word}: ")
    assert found.sentence.endswith(".")
    assert "next, " in found.sentence
    return found.sentence


def lower(points: float) -> tuple[float, ...]:
    """Ends that lie so many points under the control's."""
    return tuple(end - points for end in CLEAN)


@pytest.mark.parametrize(
    ("scene", "bare", "where", "advice"),
    [
        ("stream", "none", "with no defence", "guard first"),
        ("federation", "mean", "with the plain mean", "robust aggregator"),
        ("training set", "none", "with no defence", "defences of training sets"),
    ],
)
def test_broken_without_any_defence(scene: str, bare: str, where: str, advice: str) -> None:
    said = sentence({("none", bare): CLEAN, ("flip", bare): lower(30)}, scene)
    assert said.startswith(f"Broken: {where}, “flip” cost 30.0 ± 0.0 points of accuracy, over 3 seeds; next, ")
    assert advice in said


@pytest.mark.parametrize(
    ("scene", "advice"),
    [
        ("stream", "put guard around"),
        ("federation", "use guard on your server"),
        ("training set", "train behind guard"),
    ],
)
def test_held_by_the_guard_and_broken_without_it(scene: str, advice: str) -> None:
    ends = {("none", "none"): CLEAN, ("flip", "none"): lower(30), ("none", "guard"): CLEAN, ("flip", "guard"): lower(1)}
    said = sentence(ends, scene)
    assert said.startswith("Held: behind guard, no attack cost more than 1.0 points of accuracy, over 3 seeds, while ")
    assert "with no defence, “flip” cost 30.0 ± 0.0 points" in said
    assert advice in said


def test_of_several_defences_those_that_held_come_first_and_the_others_are_named() -> None:
    ends = {("none", "none"): CLEAN, ("flip", "none"): lower(30)}
    for defence, points, price in (("a", 20, 0), ("b", 0, 0), ("c, d", -1, 0), ("e", 9, 9)):
        ends |= {("none", defence): lower(price), ("flip", defence): lower(points)}
    ends |= {("none", "f"): CLEAN, ("flip", "f"): (90.0, 80.2, 90.4)}
    said = sentence(ends)
    assert said.startswith("Held: behind b and “c, d”, no attack cost any accuracy, over 3 seeds")
    assert "; broken behind a; too costly behind e; not settled behind f; next, put b or “c, d” around" in said


def test_broken_behind_every_defence_names_the_best() -> None:
    ends = {("none", "none"): CLEAN, ("flip", "none"): lower(30)}
    for defence, points in (("a", 20), ("b", 10)):
        ends |= {("none", defence): CLEAN, ("flip", defence): lower(points)}
    said = sentence(ends)
    assert said.startswith("Broken: behind each of 2 defences; even behind b, “flip” cost 10.0 ± 0.0 points")
    assert "(with no defence, “flip” cost 30.0 ± 0.0 points of accuracy)" in said


def test_many_names_are_counted() -> None:
    ends = {("none", "none"): CLEAN, ("flip", "none"): lower(30)}
    for defence in "abcde":
        ends |= {("none", defence): CLEAN, ("flip", defence): CLEAN}
    assert "behind a, b, c and 2 more, no attack" in sentence(ends)


@pytest.mark.parametrize(("seeds", "over"), [(1, "in the one seed there is"), (2, "over 2 seeds")])
def test_few_seeds_are_no_verdict(seeds: int, over: str) -> None:
    said = sentence({("none", "none"): CLEAN[:seeds], ("flip", "none"): lower(30)[:seeds]}, seeds=seeds)
    assert said.startswith("Not settled: with no defence, “flip” cost 30.0")
    assert over in said
    assert "run at least 3 seeds (--set seeds=3)" in said


def test_intervals_on_both_sides_of_the_margin_say_what_is_not_ruled_out_and_how_many_seeds_are_wanted() -> None:
    ends = {
        ("none", "none"): CLEAN,
        ("flip", "none"): lower(30),
        ("none", "g"): CLEAN,
        ("flip", "g"): (90.0, 90.2, 87.9),
    }
    said = sentence(ends)
    assert said.startswith("Not settled: behind g, “flip” cost 0.8 ± 1.4 points of accuracy, but up to 3.3 points are")
    assert re.search(r"next, run about \d+ seeds \(--set seeds=\d+\), which would settle it", said)
    gain = {**ends, ("flip", "g"): (95.0, 95.2, 85.4)}
    assert "“flip” cost nothing on average, but up to" in sentence(gain)
    loss = {**ends, ("flip", "g"): (90.0, 80.2, 80.4)}
    assert "too uncertain to tell from the 2 that count as held" in sentence(loss)


def test_missing_results_are_named_as_what_leaves_it_open() -> None:
    ends = {("none", "none"): CLEAN, ("flip", "none"): CLEAN[:2]}
    assert "finish the run (taster run --resume)" in sentence(ends)
    ends = {("none", "none"): CLEAN, ("flip", "none"): CLEAN, ("late", "none"): ()}
    assert "some of the results are missing" in sentence(ends)


def test_what_nothing_breaks_says_nothing_of_defences() -> None:
    bare = {("none", "none"): CLEAN, ("flip", "none"): CLEAN}
    assert sentence(bare).startswith(
        "Held: even with no defence, no attack cost any accuracy, over 3 seeds; next, give"
    )
    said = sentence({**bare, ("none", "g"): CLEAN, ("flip", "g"): CLEAN})
    assert "but nor did any with no defence, so that this says nothing of defences; next, give the attacks" in said


def test_a_defence_that_costs_too_much_says_its_price() -> None:
    ends = {("none", "none"): CLEAN, ("flip", "none"): lower(30), ("none", "g"): lower(8), ("flip", "g"): lower(8)}
    said = sentence({**ends, ("none", "h"): CLEAN, ("flip", "h"): lower(20)})
    assert said.startswith(
        "Costly: behind g, no attack surely added 2 points to what the defence itself costs, 8.0 ± 0.0"
    )
    assert "broken behind h" in said


def test_no_attack_is_no_verdict() -> None:
    assert "add an attack and the control “none”" in sentence({("none", "none"): CLEAN})


def test_a_backdoor_is_told_by_the_users_name_of_its_class() -> None:
    ends = {("none", "none"): CLEAN, ("door", "none"): lower(5)}
    columns = {("door", "none"): {"asr": [97.0, 98.0, 99.0]}}
    settings = {"door": {"target_class": 1}}
    said = sentence(ends, columns=columns, settings=settings, data={"class_names": ["cat", "ship"]})
    told = "cost 5.0 ± 0.0 points of accuracy and turned 98 % of the samples that bear its trigger into "
    assert f"“door” {told}“ship”, over 3 seeds" in said
    assert f"“door” {told}class 1, over" in sentence(ends, columns=columns, settings=settings)
    assert "got 98 % of its own inputs to be answered as it wants" in sentence(ends, columns=columns)


def test_targets_are_told_by_number() -> None:
    ends = {("none", "none"): CLEAN, ("aim", "none"): CLEAN}
    hit = {("aim", "none"): {"targets": [5, 5, 5], "target_success": [80.0, 80.0, 100.0], "poisoned": [9, 9, 9]}}
    assert "“aim” hit 13 of 15 targets, over 3 seeds" in sentence(ends, "training set", columns=hit)
    few = {("aim", "none"): {"targets": [1, 1, 1], "target_success": [0.0, 0.0, 0.0], "poisoned": [9, 9, 9]}}
    said = sentence(ends, "training set", columns=few)
    assert "hit 0 of 3 targets, but up to 63 % are not ruled out (10 % count as held)" in said
    assert "run more seeds or more targets" in said
