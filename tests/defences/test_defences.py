"""Every defence: pure when called, its formula, its state."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner

from taster import Batch, Guard, Learner, SnapshotBuffer
from taster.core.guard import CandidateUpdate
from taster.defences import DEFENCES, agem_projection, clipping, dagc, probe_gate, quantile_clipping
from taster.errors import CheckpointError, GuardError, SnapshotError


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_clipping_scales_down_to_the_bound_and_keeps_the_direction(norm: str) -> None:
    torch.manual_seed(0)
    gradient = {"a": torch.randn(3, 2), "b": torch.randn(4)}
    (clip,) = clipping(max_norm=0.5, norm=norm).transforms
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
    learner, twin = tiny_learner(guard=clipping(max_norm=0.05)), tiny_learner()
    batch = tiny_batch()
    learner.step(batch)
    torch.nn.functional.cross_entropy(twin.model(batch.x), batch.y).backward()
    torch.nn.utils.clip_grad_norm_(twin.model.parameters(), 0.05)
    twin.optimizer.step()
    for a, b in zip(learner.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def poison(batch: Batch, loss_scale: float = 1.0) -> Batch:
    """Labels that undo what was learnt."""
    return Batch(batch.x, (batch.y + 1) % 3, loss_scale)


def easy(n: int, seed: int = 0) -> Batch:
    """Samples a tiny net learns at once: the class is the brightness."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    return Batch((y.float() / 2)[:, None, None, None].expand(n, 1, 6, 6).contiguous(), y)


def test_clipping_at_a_quantile_goes_by_what_was_applied() -> None:
    guard = quantile_clipping(quantile=0.5, window=5, warmup_steps=3)
    learner = tiny_learner(guard=guard)
    records = [learner.step(tiny_batch(16, seed=i)) for i in range(3)]
    assert all(r.gradient_norm_before == r.gradient_norm_after for r in records)
    usual = sorted(float(r.gradient_norm_after or 0) for r in records)[1]
    loud = tiny_batch(16, seed=9)
    record = learner.step(Batch(loud.x, loud.y, 1000.0))
    assert record.gradient_norm_before is not None
    assert record.gradient_norm_before > 100 * usual
    assert record.gradient_norm_after == pytest.approx(usual, rel=1e-5)
    for _ in range(10):
        record = learner.step(Batch(loud.x, loud.y, 1000.0))
    assert record.gradient_norm_after is not None
    assert record.gradient_norm_after <= 2 * max(float(r.gradient_norm_after or 0) for r in records)
    again = quantile_clipping(quantile=0.5, window=5, warmup_steps=3)
    again.load_state_dict(guard.state_dict())
    assert again.state_dict() == guard.state_dict()
    assert len(guard.state_dict()[0]["norms"]) == 5  # type: ignore[index]


def test_what_opposes_the_probe_is_projected_off() -> None:
    probe = tiny_batch(40, seed=1)
    learner, view = tiny_learner(), tiny_learner().view()
    (project,) = agem_projection(probe, probe_samples=30).transforms
    towards = view.loss_gradient(probe.x[:30], probe.y[:30])
    same = {name: 2 * value for name, value in towards.items()}
    assert all(torch.equal(project(same, view)[name], same[name]) for name in same)
    noise = {name: torch.randn_like(value) for name, value in towards.items()}
    against = {name: noise[name] - 5 * towards[name] for name in towards}
    found = project(against, view)

    def inner(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        return sum(float((a[name] * b[name]).sum()) for name in a)

    assert inner(against, towards) < 0
    assert inner(found, towards) == pytest.approx(0.0, abs=1e-4)
    share = inner(against, towards) / inner(towards, towards)
    for name in found:
        assert torch.allclose(found[name], against[name] - share * towards[name], atol=1e-5)
    # Plain PyTorch agrees on the probe's gradient.
    learner.model.eval()
    loss = torch.nn.functional.cross_entropy(learner.model(probe.x[:30]), probe.y[:30])
    for (name, _), slope in zip(
        learner.model.named_parameters(), torch.autograd.grad(loss, list(learner.model.parameters())), strict=True
    ):
        assert torch.allclose(towards[name], slope, atol=1e-6)


def test_the_probe_gate_refuses_harm_and_keeps_what_helps() -> None:
    learner = tiny_learner(guard=probe_gate(easy(60, seed=9), tolerance=2.0))
    for i in range(40):
        learner.step(easy(32, seed=i))
    reached = learner.view().accuracy(easy(60, seed=9).x, easy(60, seed=9).y)
    assert reached > 90
    before = full_state(learner)
    record = learner.step(poison(easy(32, seed=77), loss_scale=50.0))
    assert record.verdict.stage == "probe_gate"
    assert "would fall by" in record.verdict.reason
    assert same_state(before, full_state(learner))
    assert learner.step(easy(32, seed=78)).verdict.committed


def trained(learner: Learner, steps: int = 40, draw: Callable[..., Batch] = easy) -> Learner:
    for i in range(steps):
        learner.step(draw(32, seed=i))
    return learner


def noisy(n: int, seed: int = 0) -> Batch:
    """The same, where classes run into each other."""
    clean = easy(n, seed)
    noise = 0.2 * torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(seed + 10**6))
    return Batch((clean.x + noise).clamp(0, 1), clean.y)


def test_the_anchor_stops_drift_in_small_steps() -> None:
    """Each step costs little: compared with the step before alone they would all pass."""
    probe = noisy(400, seed=9)

    def fed_poison(guard: Guard) -> tuple[list[str], float]:
        learner = trained(tiny_learner(), 60, noisy)
        learner.guard = guard
        for group in learner.optimizer.param_groups:
            group["lr"] = 0.001
        records = [learner.step(poison(noisy(32, seed=1000 + i))) for i in range(100)]
        return [r.verdict.reason for r in records if r.verdict.reason], learner.view().accuracy(probe.x, probe.y)

    reasons, held = fed_poison(probe_gate(probe, tolerance=1.0, alert_steps=0))
    assert all("against the anchor" in reason for reason in reasons)
    assert len(reasons) > 20
    _, fallen = fed_poison(Guard())
    assert fallen < 60
    assert held > 80


@pytest.mark.parametrize("every", [1, 3])
def test_the_anchor_is_the_start_and_moves_up_on_evidence_alone(every: int) -> None:
    probe = easy(200, seed=9)
    guard = probe_gate(probe, check_every=every)
    learner = tiny_learner(guard=guard, history=SnapshotBuffer(capacity=every))
    (gate,) = guard.gates
    start = learner.view().accuracy(probe.x, probe.y)
    learner.step(easy(32, seed=0))
    assert 100 * float(gate.state_dict()["anchor"]["right"].float().mean()) == pytest.approx(start)
    anchors = []
    for i in range(40):
        learner.step(easy(32, seed=i))
        anchors.append(float(gate.state_dict()["anchor"]["right"].float().mean()))
    assert anchors == sorted(anchors)
    assert anchors[-1] > 0.9
    assert len(set(anchors)) < 10  # not with every fluctuation


def test_calling_the_gate_changes_nothing_that_is_kept() -> None:
    guard = probe_gate(easy(60, seed=9))
    (gate,) = guard.gates
    learner = tiny_learner(guard=Guard(gates=[lambda change: gate(change)]))  # called, never told
    for i in range(5):
        learner.step(easy(32, seed=i))
    assert gate.state_dict() == {"anchor": None, "trail": [], "unchecked": 0, "alarmed": 0}


def test_harm_to_one_class_does_not_hide_in_the_mean() -> None:
    probe = easy(600, seed=9)

    def refusals(class_tolerance: float | None) -> list[str]:
        learner = trained(tiny_learner())
        learner.guard = probe_gate(probe, tolerance=60.0, class_tolerance=class_tolerance)
        for group in learner.optimizer.param_groups:
            group["lr"] = 0.02
        reasons = []
        for i in range(40):
            clean = easy(64, seed=1000 + i)
            wrong = Batch(clean.x, torch.where(clean.y == 1, 2, clean.y))
            reasons.append(learner.step(wrong).verdict.reason)
        return [reason for reason in reasons if reason]

    assert any(", class 1," in reason for reason in refusals(5.0))
    assert refusals(None) == []


class Seen:
    """A view of a model that says this of the probe."""

    def __init__(self, said: torch.Tensor) -> None:
        self.said, self.moment, self.snapshot_steps = said, object(), ()

    def outputs(self, x: torch.Tensor, chunk: int) -> torch.Tensor:
        return 8.0 * torch.nn.functional.one_hot(self.said, 3)

    def losses(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(output, y, reduction="none")


@pytest.mark.parametrize(("forgotten", "refused"), [(10, False), (60, True)])
def test_harm_to_one_class_does_not_hide_where_the_loss_gets_better(forgotten: int, refused: bool) -> None:
    """A new class is learned, and of an old one of 200 samples some are forgotten for it."""
    y = torch.arange(600) % 3
    (gate,) = probe_gate(Batch(torch.zeros(600, 1, 6, 6), y)).gates
    before, after = torch.where(y == 2, 0, y), y.clone()
    after[(y == 1).nonzero().squeeze(1)[:forgotten]] = 2
    verdict = gate(CandidateUpdate(0, tiny_batch(), {}, 1.0, Seen(before), Seen(after)))  # type: ignore[arg-type]
    assert verdict.committed is not refused
    assert ("accuracy on the probe, class 1, would fall by 30.0 points" in verdict.reason) is refused


def test_checked_now_and_then_it_goes_back_to_the_last_check() -> None:
    probe = easy(200, seed=9)
    guard = probe_gate(probe, check_every=4, check_on_loss_outlier=False)
    learner = tiny_learner(guard=guard, history=SnapshotBuffer(capacity=6))
    trained(learner)
    assert learner.steps == 40
    good = full_state(learner)
    verdicts = [learner.step(poison(easy(32, seed=i))).verdict for i in range(4)]
    assert [v.action.name for v in verdicts] == ["COMMIT", "COMMIT", "COMMIT", "REWIND"]
    assert verdicts[-1].steps == 3
    assert same_state(good, full_state(learner))


def test_a_gate_goes_on_from_its_state() -> None:
    probe = easy(200, seed=9)
    learner = trained(tiny_learner(guard=probe_gate(probe)))
    twin = probe_gate(probe)
    twin.load_state_dict(learner.guard.state_dict())
    (ours,), (theirs,) = learner.guard.gates, twin.gates
    assert torch.equal(ours.state_dict()["trail"][-1]["probability"], theirs.state_dict()["trail"][-1]["probability"])
    learner.guard = twin
    assert not learner.step(poison(easy(32, seed=77), loss_scale=50.0)).verdict.committed


def test_a_gate_that_rewinds_wants_a_history_that_reaches_back_as_far() -> None:
    guard = probe_gate(easy(100, seed=1), check_every=4)
    assert guard.max_rewind == 3
    for history in (SnapshotBuffer(capacity=3), SnapshotBuffer(capacity=1, every=4)):
        with pytest.raises(SnapshotError, match="rewinds up to 3 steps"):
            tiny_learner(guard=guard, history=history)
    for history in (None, SnapshotBuffer(capacity=4), SnapshotBuffer(capacity=2, every=4)):
        learner = tiny_learner(guard=guard, history=history)
        assert learner.history is not None
        assert learner.history.reach >= 3


def test_a_renewed_probe_is_the_one_that_counts() -> None:
    guard = probe_gate(easy(400, seed=1))
    (gate,) = guard.gates
    learner = tiny_learner(guard=guard)
    for i in range(20):
        learner.step(easy(32, seed=10 + i))
    fresh = tiny_batch(300, seed=3)
    guard.set_trusted_data(fresh)
    start = learner.view().forward(fresh.x).argmax(1) == fresh.y
    # What is learned of it is learned: the old probe's samples are not asked any more.
    assert learner.step(fresh).verdict.committed
    state = gate.state_dict()
    assert torch.equal(state["anchor"]["right"], start)
    assert torch.equal(state["trail"][-1]["right"], learner.view().forward(fresh.x).argmax(1) == fresh.y)
    assert not learner.step(Batch(fresh.x, fresh.y, 1000.0)).verdict.committed


def test_what_has_no_probe_cannot_be_renewed() -> None:
    with pytest.raises(GuardError, match="none of whose stages has one"):
        clipping(max_norm=1.0).set_trusted_data(easy(10))


def test_the_state_of_a_gate_with_another_probe_is_refused() -> None:
    learner = tiny_learner(guard=probe_gate(easy(100, seed=1)))
    learner.step(easy(32))
    other = tiny_learner(guard=probe_gate(easy(120, seed=1)))
    with pytest.raises(CheckpointError, match="a probe of 100 samples, wanted 120"):
        other.load_state_dict(learner.state_dict())


def test_all_defences_are_named_by_their_function() -> None:
    assert set(DEFENCES) == {
        "dagc",
        "none",
        "clipping",
        "quantile_clipping",
        "agem_projection",
        "adversarial_training_correction",
        "trades_correction",
        "mart_correction",
        "mma_correction",
        "fat_correction",
        "dsc",
        "discrepancy_screen",
        "anomaly_screen",
        "influence_screen",
        "probe_gate",
        "loss_alarm",
        "retry_low_score_half",
        "guard",
    }


def test_discrepancy_aware_clipping_clips_what_makes_the_model_strange_to_its_past_and_nothing_else() -> None:
    def run(**options) -> tuple[Learner, Guard]:
        guard = dagc(easy(40), reference_model="start", learning_rate=0.1, max_norm=0.01, **options)
        learner = tiny_learner(guard=guard, history=SnapshotBuffer(capacity=0))
        learner.history.pin("start", learner.snapshot())
        return learner, guard

    learner, guard = run(warmup_steps=3, quantile=1.0)
    records = [learner.step(easy(16, seed=i)) for i in range(4)]
    assert all(r.gradient_norm_after == r.gradient_norm_before for r in records[:3])
    (stage,) = guard.transforms
    assert len(stage.recent) == 4
    harmful = learner.step(Batch(easy(16).x, (easy(16).y + 1) % 3, 200.0))
    assert harmful.gradient_norm_after == pytest.approx(0.01, rel=1e-4)
    assert harmful.gradient_norm_before > 0.1

    never, _ = run(threshold=1e9)
    always, _ = run(threshold=-1.0)
    assert never.step(easy(16)).gradient_norm_after > 0.01
    assert always.step(easy(16)).gradient_norm_after == pytest.approx(0.01, rel=1e-4)
    grown, _ = run(threshold=-1.0, threshold_growth=1e9)
    assert grown.step(easy(16)).gradient_norm_after == pytest.approx(0.01, rel=1e-4)
    assert grown.step(easy(16)).gradient_norm_after > 0.01


def test_discrepancy_aware_clipping_looks_ahead_to_the_step_that_is_made() -> None:
    guard = dagc(easy(40), reference_model="start", learning_rate=0.1, threshold=1e9)
    learner = tiny_learner(guard=guard, history=SnapshotBuffer(capacity=0))
    for group in learner.optimizer.param_groups:
        group["momentum"] = group["weight_decay"] = 0.0
    learner.model.eval()
    learner.history.pin("start", learner.snapshot())
    (stage,) = guard.transforms
    before = full_state(learner)
    gradient = learner.view().loss_gradient(easy(16).x, easy(16).y)
    ahead = stage.ahead(gradient, learner.view())
    assert same_state(before, full_state(learner))
    learner.step(easy(16))
    after = float(stage._score(stage._probe, learner.view()).mean())
    assert ahead == pytest.approx(after, rel=1e-3)
    state = guard.state_dict()
    stage.recent.append(3.0)
    guard.load_state_dict(state)
    assert 3.0 not in stage.recent


def test_momentum_that_does_harm_by_itself_is_let_go() -> None:
    """An honest step may fail for what came before it; it does not for ever."""

    def refusals(patience: int) -> tuple[int, float]:
        probe = easy(400, seed=9)
        learner = trained(tiny_learner())
        for state in learner.optimizer.state.values():
            state["momentum_buffer"] += 2 * torch.randn(
                state["momentum_buffer"].shape, generator=torch.Generator().manual_seed(0)
            )
        learner.guard = probe_gate(probe, reset_momentum_after=patience)
        refused = sum(not learner.step(easy(32, seed=500 + i)).verdict.committed for i in range(30))
        return refused, learner.view().accuracy(probe.x, probe.y)

    assert refusals(0)[0] == 30
    patient, accuracy = refusals(2)
    assert 2 <= patient < 10
    assert accuracy > 95
