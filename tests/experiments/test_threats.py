"""The table of threats: complete, true to what attacks and defences return, and readable."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.attacks.conftest import make_attack
from tests.conftest import run_command

from taster.attacks import ATTACKS, DATASET_ATTACKS, UPDATE_ATTACKS, threat_of
from taster.core.threat import countermeasure_of
from taster.defences import DATASET_DEFENCES, DEFENCES
from taster.experiments.recipes import threats as table
from taster.federated import AGGREGATORS

HARMLESS = {"none"}
DEFENCELESS = {"none", "mean"}

GIVEN: dict[str, dict[str, Any]] = {
    "ood_images": {"source": "digits"},
    "trigger_backdoor": {"trigger": "torch:zeros_like"},
}


def test_every_attack_and_every_defence_says_what_it_is() -> None:
    silent = {
        name
        for attacks in (ATTACKS, UPDATE_ATTACKS, DATASET_ATTACKS)
        for name, attack in attacks.items()
        if threat_of(attack) is None
    }
    assert silent == HARMLESS
    silent = {
        name
        for defences in (DEFENCES, AGGREGATORS, DATASET_DEFENCES)
        for name, defence in defences.items()
        if countermeasure_of(defence) is None
    }
    assert silent == DEFENCELESS


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - HARMLESS))
def test_what_an_attack_on_streams_says_fits_what_it_returns(name: str) -> None:
    said, attack = threat_of(ATTACKS[name]), make_attack(name, **GIVEN.get(name, {}))
    assert said is not None
    # A backdoor is a breach of integrity by one pattern, and nothing else here is.
    is_backdoor = attack.backdoor is not None
    assert (said.violation == "integrity") == is_backdoor == (said.universality == "universal")
    assert (said.universality == "none") == (attack.budget.ball.epsilon == 0 and attack.budget.edits is None)
    assert said.timing in ("stream step", "accumulative then trigger")
    if said.timing == "accumulative then trigger":
        assert attack.accumulate is not None
        assert attack.accumulate is not attack.trigger


@pytest.mark.parametrize("name", sorted(UPDATE_ATTACKS))
def test_attacks_on_updates_change_no_sample_and_act_by_rounds(name: str) -> None:
    said = threat_of(UPDATE_ATTACKS[name])
    assert said is not None
    assert said.universality == "none"
    assert said.timing in ("round", "accumulative then trigger")


@pytest.mark.parametrize("name", sorted(DATASET_ATTACKS))
def test_attacks_on_training_sets_act_before_training(name: str) -> None:
    said = threat_of(DATASET_ATTACKS[name])
    assert said is not None
    assert said.timing == "before training"


def test_clients_that_know_their_own_update_alone_are_no_white_box() -> None:
    grey = {name for name, attack in UPDATE_ATTACKS.items() if threat_of(attack).knowledge == "grey box"}  # type: ignore[union-attr]
    assert grey == {"sign_flip", "gaussian_updates"}


def test_the_command_prints_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    wide = run_command("list", "--threat")
    assert wide.returncode == 0, wide.stderr
    lines = [line.split() for line in wide.stdout.splitlines()]
    assert ["label_flip", "indiscriminate", "availability", "black", "box", "-", "label", "stream", "step"] in lines
    assert ["none", "-", "-", "-", "-", "-"] in lines
    assert ["guard", "test", "indiscriminate", "availability,", "targeted", "availability"] in lines
    monkeypatch.setenv("COLUMNS", "80")
    narrow = run_command("list", "--threat").stdout
    assert max(len(line.rstrip()) for line in narrow.splitlines()) <= 80
    assert set(wide.stdout.split()) == set(narrow.split())  # no word is cut
    entries = json.loads(run_command("list", "--threat", "--json").stdout)
    assert entries == table.threats()
    markdown = run_command("list", "--threat", "--markdown").stdout
    assert markdown == table.threats_markdown(entries)


def test_an_attack_that_says_nothing_is_shown_with_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    def own() -> None: ...

    layers = {**table._LAYERS, "attacks on streams": (table.Threat, {"own": own})}
    monkeypatch.setattr(table, "_LAYERS", layers)
    entries = table.threats()
    (row,) = entries["attacks on streams"]
    assert row == {"name": "own"} | dict.fromkeys(
        ("specificity", "violation", "knowledge", "universality", "family", "timing", "influence", "note")
    )
    assert "| `own` | - | - | - | - | - | - | - |  |" in table.threats_markdown(entries)
    assert ["own", "-", "-", "-", "-", "-"] in table.threat_table("attacks on streams", [row])[1]


def test_the_answers_name_who_does_each_harm_and_what_is_made_for_it() -> None:
    page = table.threats_markdown(table.threats())
    (line,) = [line for line in page.splitlines() if line.startswith("| targeted integrity |")]
    assert "`patch_backdoor`" in line
    assert "`backdoor_screen`" in line
    assert "`accumulative`" not in line
    assert "`probe_gate`" not in line
