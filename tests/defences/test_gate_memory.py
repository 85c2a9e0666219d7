"""What a gate remembers: checkpoints, vetoes, phases, the scales of its anchor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import full_state, same_state, tiny_learner
from tests.core.pair import digest
from tests.defences.conftest import easy, noisy, poison, trained

from taster import Batch, Learner
from taster.core.checkpoint import load_state, save_state
from taster.defences import probe_gate
from taster.defences.gates import anchor, check_memory, step_check
from taster.defences.gates.anchor_limits import anchor_limits, first_scales, narrowed
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.step_test import step_evidence
from taster.defences.gates.swings import Swings
from taster.errors import CheckpointError
from taster.stats.paired_sums import PairedSums

STEPS = 36


def batches() -> list[Batch]:
    """Honest ones, and poison among them."""
    made = [noisy(32, seed=i) for i in range(STEPS)]
    for i in (9, 10, 23):
        made[i] = Batch(*poison(noisy(32, seed=i)), 20.0)
    return made


def gated(seed: int, **options: Any) -> Learner:
    return tiny_learner(guard=probe_gate(noisy(1200, seed=9), seed=seed, **options))


def told(learner: Learner, batch: Batch) -> tuple[Any, ...]:
    verdict = learner.step(batch).verdict
    return verdict.action, verdict.steps, verdict.reason, dict(verdict.evidence)


@pytest.mark.parametrize("options", [{}, {"check_every": 3}, {"max_rewind": 4}], ids=str)
def test_a_run_resumes_bit_for_bit_wherever_it_was_cut(options: dict[str, Any], tmp_path: Any) -> None:
    """The twin was made with another seed: what it loads is the seed too, and the place in the order."""
    learner, states, verdicts = gated(1, **options), [], []
    for batch in batches():
        states.append(tmp_path / f"{len(states)}.safetensors")
        save_state(states[-1], learner.state_dict())
        verdicts.append(told(learner, batch))
    assert sum(action.name != "COMMIT" for action, *_ in verdicts) >= 2
    end = digest([learner.state_dict()["guard"], list(learner.model.state_dict().values())])
    for cut in (1, 8, 10, 11, 20, 24, 33):
        twin = gated(100 + cut, **options)
        twin.load_state_dict(load_state(states[cut]))
        assert [told(twin, batch) for batch in batches()[cut:]] == verdicts[cut:]
        assert digest([twin.state_dict()["guard"], list(twin.model.state_dict().values())]) == end


def test_a_veto_leaves_what_was_measured_as_it_was() -> None:
    learner = trained(gated(1), 30, noisy)
    (gate,) = learner.guard.gates
    before, model = gate.state_dict(), full_state(learner)
    refused = learner.step(Batch(*poison(noisy(32, seed=500)), 50.0))
    assert not refused.verdict.committed
    after = gate.state_dict()
    assert same_state(model, full_state(learner))
    for name in ("anchor", "swings", "losses", "phase", "unchecked", "seed", "holdout_refusals"):
        assert digest(after[name]) == digest(before[name]), name
    assert after["alerted"] == 20
    assert after["checked"]["step"] == before["checked"]["step"] + 1
    # What is committed is remembered.
    assert learner.step(noisy(32, seed=501)).verdict.committed
    assert digest(gate.state_dict()["swings"]) != digest(before["swings"])


def test_checks_every_few_steps_measure_the_state_after_them_alone() -> None:
    learner = gated(1, check_every=4, check_on_loss_outlier=False)
    (gate,) = learner.guard.gates
    checked = []
    for i in range(12):
        assert learner.step(noisy(32, seed=i)).verdict.committed
        checked.append((gate.state_dict()["checked"]["step"], gate.state_dict()["unchecked"]))
    # The first check is of the model before the first step.
    assert checked == [(0, 1), (0, 2), (0, 3), (4, 0), (4, 1), (4, 2), (4, 3), (8, 0), (8, 1), (8, 2), (8, 3), (12, 0)]
    assert len(gate.state_dict()["checked"]["measured"]["correct"]) == 1200


def test_phases_from_random_weights_to_a_level_model_that_drifts(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that every check is an audit, and a model is level after a few.
    monkeypatch.setattr(check_memory, "_AUDIT_SHARE", 1e6)
    monkeypatch.setattr(anchor, "_RECENT", 15)
    probe = noisy(900, seed=9)
    learner = tiny_learner(guard=probe_gate(probe, tolerance=10.0, class_tolerance=None, seed=1))
    for group in learner.optimizer.param_groups:
        group["lr"] = 0.01
    (gate,) = learner.guard.gates
    # Outputs that do not depend on the input are right as often as the most frequent class is.
    torch.nn.init.zeros_(learner.model.fc.weight)  # type: ignore[union-attr,arg-type]
    phases = [gate.phase]
    for i in range(400):
        learner.step(noisy(64, seed=i))
        phases.append(gate.phase)
        if gate.phase == anchor.LEVEL:
            break
    order = list(dict.fromkeys(phases))
    assert order[:3] == [anchor.EARLY, anchor.UNTRAINED, anchor.LEARNING]
    assert phases[-1] == anchor.LEVEL
    # That a model is level takes a while to tell.
    late = trained(tiny_learner(), 40, noisy)
    late.guard = probe_gate(probe, tolerance=10.0, seed=1)
    reasons = [late.step(noisy(64, seed=700 + i)).verdict.reason for i in range(8)]
    assert anchor.LEVEL not in reasons
    assert anchor.EARLY in reasons
    # While the model does no better than chance nothing is refused, whatever it is fed.
    fresh = tiny_learner(guard=probe_gate(probe, seed=1))
    torch.nn.init.zeros_(fresh.model.fc.weight)  # type: ignore[union-attr,arg-type]
    assert fresh.step(Batch(*poison(noisy(64)), 0.01)).verdict.reason == anchor.UNTRAINED

    for group in learner.optimizer.param_groups:
        group["lr"] = 0.0005
    for i in range(200):
        learner.step(poison(noisy(32, seed=900 + i)))
        if gate.phase == anchor.DRIFTING:
            break
    assert gate.phase == anchor.DRIFTING


def swung(scale: float, count: int = 60) -> Swings:
    """What steps that swing by so much leave."""
    swings = Swings()
    for drop in scale * np.random.default_rng(0).standard_normal(count):
        n = 4000.0
        swings.append("correct", PairedSums(False, np.array([n]), np.array([n * drop]), np.array([n * drop**2])))
    return swings


def test_the_scales_of_an_anchor_may_shrink_and_never_grow() -> None:
    """An attacker who lets the model swing more and more widens the limit of a step, but not that of the anchor."""
    criteria = HarmCriteria(1.0, 0.01, class_tolerance=None)
    quiet, wild = swung(0.01), swung(0.1)
    drops = {"correct": PairedSums(True, np.array([4000.0]), np.array([400.0]), np.array([400.0]))}
    frozen = quiet.scales()
    least = np.array([0.005])
    assert wild.limits("correct", least, least, 1.0)[0] > 5 * quiet.limits("correct", least, least, 1.0)[0]
    limit = anchor_limits(criteria, "correct", 1, frozen, quiet)[0]
    assert 0.01 < limit < 0.2
    assert anchor_limits(criteria, "correct", 1, frozen, wild)[0] == limit
    # They shrink with a model that has become quiet, and stay small when it swings again.
    narrow = narrowed(criteria, wild.scales(), quiet)
    np.testing.assert_array_equal(narrowed(criteria, narrow, wild)["correct"], quiet.scales()["correct"])
    assert anchor_limits(criteria, "correct", 1, narrow, wild)[0] == limit
    # Where the model has improved they may grow, but not to whatever the steps swing.
    assert narrowed(criteria, frozen, wild, ["correct"])["correct"] == 2 * frozen["correct"]
    # Before anything is known, twice the tolerance may be lost, whatever the steps swing.
    first = first_scales(criteria, {"correct": torch.zeros(4), "loss": torch.zeros(4)})
    assert anchor_limits(criteria, "correct", 1, first, wild)[0] == pytest.approx(0.02)
    # No step may cost more than that, either.
    step = {"correct": drops["correct"], "loss": drops["correct"]}
    widened, _ = step_evidence(criteria, step, first, wild, suspect=False, last=True)
    young, _ = step_evidence(criteria, step, None, swung(0.3), suspect=False, last=True)
    assert widened is not None
    assert widened.numbers["limit"] == pytest.approx(2.0)
    assert young is None
    # What was not known when the anchor was taken is known from the first audit on.
    np.testing.assert_array_equal(narrowed(criteria, {}, quiet)["correct"], quiet.scales()["correct"])
    assert anchor_limits(criteria, "correct", 1, {}, Swings())[0] == pytest.approx(0.01)


def test_of_a_model_that_has_fallen_little_more_may_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """One class is unlearned in steps that each take little of it, of which looks say nothing: once an audit has seen
    that, no step may add to it, also where the audit itself fell on a step that improved the model."""
    monkeypatch.setattr(step_check, "seems_fallen", lambda *_, **__: False)
    learner = trained(tiny_learner())
    probe = easy(600, seed=9)
    learner.guard = probe_gate(probe, tolerance=60.0, seed=1)
    for group in learner.optimizer.param_groups:
        group["lr"] = 0.02
    (gate,) = learner.guard.gates
    below, said = [], []
    for i in range(60):
        clean = easy(64, seed=1000 + i)
        verdict = learner.step(Batch(clean.x, torch.where(clean.y == 1, 2, clean.y))).verdict
        below.append(gate.state_dict()["floor"] is not None)
        said.append(verdict.reason)
    first = below.index(True)
    # The work of 600 · 10 / (3 · 64) = 31 steps pays for an audit.
    assert 31 <= first <= 36
    assert all(below[first:])
    assert "class 1, would fall by" in said[first] or said[first] == anchor.BELOW
    twin = trained(tiny_learner())
    twin.guard = probe_gate(probe, tolerance=60.0, seed=1)
    assert twin.guard.gates[0].state_dict()["floor"] is None
    for i in range(40):
        learner.step(easy(64, seed=2000 + i))
    # It has climbed back.
    assert learner.view().accuracy(probe.x, probe.y) > 95


def test_a_saved_state_is_loaded_as_a_whole_or_not_at_all() -> None:
    learner = trained(gated(1, check_every=2), 12, noisy)
    (gate,) = learner.guard.gates
    saved = gate.state_dict()
    (twin,) = trained(gated(2, check_every=2), 5, noisy).guard.gates
    before = digest(twin.state_dict())
    for name in saved:
        with pytest.raises(KeyError, match=name):
            twin.load_state_dict({key: part for key, part in saved.items() if key != name})
        assert digest(twin.state_dict()) == before
    other = {name: values[:-1] for name, values in saved["anchor"]["measured"].items()}
    with pytest.raises(CheckpointError, match="a probe of 1199 samples"):
        twin.load_state_dict({**saved, "floor": other})
    assert digest(twin.state_dict()) == before
    twin.load_state_dict(saved)
    assert digest(twin.state_dict()) == digest(saved)
