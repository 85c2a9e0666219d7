"""Clipping, at a bound, at a quantile and by discrepancy; projection."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner
from tests.defences.conftest import easy

from taster import Batch, Guard, Learner, SnapshotBuffer
from taster.defences import (
    agem_projection,
    clipping,
    dagc,
    quantile_clipping,
)


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


def test_quantile_clipping_counts_norms_after_clipping() -> None:
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
    assert len(guard.state_dict()[0]["values"]) == 5  # type: ignore[index]


def test_agem_removes_what_opposes_the_probes_gradient() -> None:
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


def test_dagc_clips_only_updates_that_depart_from_the_past() -> None:
    def run(**options) -> tuple[Learner, Guard]:
        guard = dagc(easy(40), reference_model="start", learning_rate=0.1, max_norm=0.01, **options)
        learner = tiny_learner(guard=guard, snapshots=SnapshotBuffer(capacity=0))
        learner.snapshots.pin("start", learner.snapshot())
        return learner, guard

    learner, guard = run(warmup_steps=3, quantile=1.0)
    records = [learner.step(easy(16, seed=i)) for i in range(4)]
    assert all(r.gradient_norm_after == r.gradient_norm_before for r in records[:3])
    (stage,) = guard.transforms
    assert len(stage._limit.values) == 4
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


def test_dagc_looks_ahead_to_the_step_that_is_made() -> None:
    guard = dagc(easy(40), reference_model="start", learning_rate=0.1, threshold=1e9)
    learner = tiny_learner(guard=guard, snapshots=SnapshotBuffer(capacity=0))
    for group in learner.optimizer.param_groups:
        group["momentum"] = group["weight_decay"] = 0.0
    learner.model.eval()
    learner.snapshots.pin("start", learner.snapshot())
    (stage,) = guard.transforms
    before = full_state(learner)
    gradient = learner.view().loss_gradient(easy(16).x, easy(16).y)
    ahead = stage.look_ahead(gradient, learner.view())
    assert same_state(before, full_state(learner))
    learner.step(easy(16))
    after = float(stage._score(stage._probe, learner.view()).mean())
    assert ahead == pytest.approx(after, rel=1e-3)


def test_dagc_resumes_from_the_discrepancies_it_had_seen() -> None:
    guard = dagc(easy(40), reference_model=1, learning_rate=0.1)
    learner = tiny_learner(guard=guard, snapshots=SnapshotBuffer(capacity=2))
    for i in range(3):
        learner.step(easy(16, seed=i))
    (stage,) = guard.transforms
    state, seen = guard.state_dict(), list(stage._limit.values)
    assert len(seen) == 3
    stage._limit.append(3.0)
    guard.load_state_dict(state)
    assert list(stage._limit.values) == seen
