"""Every defence: pure when called, its formula, its state."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner

from taster import Batch, Guard
from taster.defences import DEFENCES, clipping, probe_gate


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_clipping_scales_down_to_the_bound_and_keeps_the_direction(norm: str) -> None:
    torch.manual_seed(0)
    gradient = {"a": torch.randn(3, 2), "b": torch.randn(4)}
    (clip,) = clipping(bound=0.5, norm=norm).transforms
    view = tiny_learner().view()
    clipped = clip(gradient, view)
    whole, was = (torch.cat([v.flatten() for v in g.values()]) for g in (clipped, gradient))
    order = 2 if norm == "l2" else torch.inf
    assert float(torch.linalg.vector_norm(whole, order)) == pytest.approx(0.5, rel=1e-5)
    assert float(torch.nn.functional.cosine_similarity(whole, was, dim=0)) == pytest.approx(1, abs=1e-6)
    small = {k: v * 1e-3 for k, v in gradient.items()}
    assert all(torch.equal(clip(small, view)[k], small[k]) for k in small)
    assert clip({}, view) == {}


def test_clipping_agrees_with_torch() -> None:
    learner, twin = tiny_learner(guard=clipping(bound=0.05)), tiny_learner()
    batch = tiny_batch()
    learner.feed(batch)
    torch.nn.functional.cross_entropy(twin.model(batch.x), batch.y).backward()
    torch.nn.utils.clip_grad_norm_(twin.model.parameters(), 0.05)
    twin.optimizer.step()
    for a, b in zip(learner.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def poison(batch: Batch) -> Batch:
    """Labels that undo what was learnt."""
    return Batch(batch.x, (batch.y + 1) % 3, loss_scale=50.0)


def easy(n: int, seed: int = 0) -> Batch:
    """Samples a tiny net learns at once: the class is the brightness."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    return Batch((y.float() / 2)[:, None, None, None].expand(n, 1, 6, 6).contiguous(), y)


def test_the_probe_gate_refuses_harm_and_keeps_what_helps() -> None:
    learner = tiny_learner(guard=probe_gate(easy(60, seed=9), tolerance=2.0))
    for i in range(40):
        learner.feed(easy(32, seed=i))
    reached = learner.view().accuracy(easy(60, seed=9).x, easy(60, seed=9).y)
    assert reached > 90
    before = full_state(learner)
    record = learner.feed(poison(easy(32, seed=77)))
    assert record.verdict.stage == "probe_gate"
    assert "points under its best" in record.verdict.reason
    assert same_state(before, full_state(learner))
    assert learner.feed(easy(32, seed=78)).verdict.committed


def test_the_mark_stops_drift_in_small_steps() -> None:
    guard = probe_gate(easy(100, seed=9), tolerance=2.0)
    learner = tiny_learner(guard=guard)
    for i in range(40):
        learner.feed(easy(32, seed=i))
    best = learner.guard.state_dict()[0]["mark"]
    for i in range(60):
        bad = poison(easy(32, seed=i))
        learner.feed(Batch(bad.x, bad.y))
    now = learner.view().accuracy(easy(100, seed=9).x, easy(100, seed=9).y)
    assert now >= best - 2.0


def test_calling_the_gate_changes_nothing_and_observing_raises_the_mark() -> None:
    guard = probe_gate(easy(60, seed=9))
    (gate,) = guard.gates
    learner = tiny_learner(guard=Guard(gates=[lambda change: gate(change)]))  # called, never told
    for i in range(5):
        learner.feed(easy(32, seed=i))
    assert gate.state_dict() == {"mark": None}
    learner = tiny_learner(guard=guard)
    marks = []
    for i in range(20):
        learner.feed(easy(32, seed=i))
        marks.append(gate.state_dict()["mark"])
    assert marks == sorted(marks)
    assert marks[-1] > marks[0]


def test_all_defences_are_named_by_their_function() -> None:
    assert set(DEFENCES) == {
        "none",
        "clipping",
        "adversarial_training",
        "dsc",
        "discrepancy_screen",
        "anomaly_screen",
        "probe_gate",
    }
