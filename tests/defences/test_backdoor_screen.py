"""The backdoor screen drops what was planted, spares what is honest, and goes on from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.attacks.conftest import easy_batch, easy_learner, make_attack
from tests.conftest import tiny_learner

from taster import Batch, Guard, Learner, Phase, ScreenedBatch
from taster.attacks import Backdoor
from taster.attacks.online_attack import poison_mask
from taster.defences import backdoor_screen
from taster.errors import BatchError, LabelError

OWN = "tests.attacks.test_backdoors:stripe"


def hard_batch(n: int, seed: int) -> Batch:
    """Easy samples under noise, so that the honest have losses of all sizes."""
    clean = easy_batch(n, seed=seed)
    noise = torch.randn(clean.x.shape, generator=torch.Generator().manual_seed(seed + 10**6))
    return Batch((clean.x + 0.9 * noise).clamp(0, 1), clean.y)


def hard_learner(guard: Guard | None = None) -> Learner:
    learner = easy_learner(rate=0.2)
    for i in range(60):
        learner.step(hard_batch(60, seed=4000 + i))
    if guard is not None:
        learner.guard = guard
    return learner


def stream(
    learner: Learner, steps: int, poison: Callable[[Batch], Batch] = lambda clean: clean
) -> tuple[int, int, int]:
    """Feeds a stream; of the samples dropped, how many were poisoned and how many honest, and the poisoned in all."""
    caught = lost = all_poison = 0
    for i in range(steps):
        clean = hard_batch(60, seed=7000 + i)
        fed = poison(clean)
        mask = poison_mask(fed, clean)
        view = learner.view()
        (screen,) = learner.guard.screens
        left = screen(ScreenedBatch(fed), view)
        kept = torch.zeros(len(fed), dtype=torch.bool)
        if not left.empty:
            rows = left.batch.x.flatten(1)
            kept = (fed.x.flatten(1)[:, None] == rows[None]).all(2).any(1)
        caught += int((~kept & mask).sum())
        lost += int((~kept & ~mask).sum())
        all_poison += int(mask.sum())
        record = learner.step(fed)
        assert record.dropped == int((~kept).sum())
    return caught, lost, all_poison


def test_the_backdoor_is_kept_out_that_is_planted_otherwise() -> None:
    probe, test = hard_batch(300, seed=1), hard_batch(300, seed=2)

    def run(guard: Guard) -> tuple[float, float, tuple[int, int, int] | None]:
        learner = hard_learner(guard)
        attack = make_attack("trigger_backdoor", trigger=OWN, target_class=1, poison_fraction=0.1)

        def poison(clean: Batch) -> Batch:
            return attack.poison(clean, learner.view(), Phase.ACCUMULATE)

        found = stream(learner, 80, poison) if guard.screens else None
        if found is None:
            for i in range(80):
                learner.step(poison(hard_batch(60, seed=7000 + i)))
        planted: Backdoor = attack.backdoor
        return planted.success_rate(learner.view(), test), learner.view().accuracy(test.x, test.y), found

    undefended, plain_accuracy, _ = run(Guard())
    success, accuracy, found = run(backdoor_screen(probe))
    assert undefended > 60
    assert success < undefended / 2
    assert accuracy > plain_accuracy - 3
    assert found is not None
    caught, _, all_poison = found
    assert caught > 0.4 * all_poison


def test_honest_samples_are_spared() -> None:
    learner = hard_learner(backdoor_screen(hard_batch(300, seed=1)))
    _, lost, _ = stream(learner, 60)
    assert lost < 0.015 * 60 * 60


def test_calling_changes_nothing_and_a_trusted_batch_is_not_counted() -> None:
    guard = backdoor_screen(hard_batch(100, seed=1))
    learner = hard_learner(guard)
    fresh = guard.state_dict()
    assert fresh == [{"reference": None, "age": 0, "window": [], "taster_format": 1}]
    (screen,) = guard.screens
    screen(ScreenedBatch(hard_batch(20, seed=3)), learner.view())
    assert guard.state_dict() == fresh
    learner.step(hard_batch(20, seed=3))
    (state,) = guard.state_dict()
    assert state is not None
    assert (state["age"], len(state["window"])) == (1, 1)
    learner.step(hard_batch(20, seed=4), trusted=True)
    assert len(guard.state_dict()[0]["window"]) == 1  # type: ignore[index]


def test_the_reference_is_the_model_before_and_follows_an_honest_stream() -> None:
    guard = backdoor_screen(hard_batch(100, seed=1), refresh_every=3)
    learner = hard_learner(guard)
    before = learner.view().params
    for i in range(2):
        learner.step(hard_batch(40, seed=20 + i))
    reference = guard.state_dict()[0]["reference"]["params"]  # type: ignore[index]
    assert all(torch.equal(reference[name], value) for name, value in before.items())
    learner.step(hard_batch(40, seed=22))
    reference = guard.state_dict()[0]["reference"]["params"]  # type: ignore[index]
    now = learner.view().params
    assert all(torch.equal(reference[name], value) for name, value in now.items())


def test_the_reference_does_not_follow_while_a_label_is_contaminated() -> None:
    guard = backdoor_screen(hard_batch(300, seed=1), refresh_every=5)
    learner = hard_learner(guard)
    attack = make_attack("trigger_backdoor", trigger=OWN, target_class=1, poison_fraction=0.3)
    stream(learner, 20, lambda clean: attack.poison(clean, learner.view(), Phase.ACCUMULATE))
    assert guard.state_dict()[0]["age"] >= 10  # type: ignore[index]


def test_a_run_goes_on_from_a_checkpoint() -> None:
    probe = hard_batch(200, seed=1)
    learner = hard_learner(backdoor_screen(probe, refresh_every=4))
    for i in range(6):
        learner.step(hard_batch(40, seed=30 + i))
    twin = hard_learner(backdoor_screen(probe, refresh_every=4))
    twin.load_state_dict(learner.state_dict())
    wrong = Batch(hard_batch(40, seed=90).x, (hard_batch(40, seed=90).y + 1) % 3)
    for batch in (hard_batch(40, seed=80), wrong, hard_batch(40, seed=81)):
        records = [one.step(batch) for one in (learner, twin)]
        assert records[0].dropped == records[1].dropped
    assert records[0].loss == records[1].loss
    mine, other = learner.guard.state_dict()[0], twin.guard.state_dict()[0]
    assert mine is not None
    assert other is not None
    assert mine["age"] == other["age"]
    assert all(
        torch.equal(a, b)
        for p, q in zip(mine["window"], other["window"], strict=True)
        for a, b in zip(p, q, strict=True)
    )


def test_other_trusted_samples_are_used_at_once() -> None:
    guard = backdoor_screen(hard_batch(100, seed=1))
    learner = hard_learner(guard)
    (screen,) = guard.screens
    batch = hard_batch(40, seed=5)
    before = screen(ScreenedBatch(batch), learner.view()).dropped
    # Trusted samples with hardly any loss: everything else is more surprising.
    guard.set_trusted_data(easy_batch(100, seed=3))
    assert screen(ScreenedBatch(batch), learner.view()).dropped > before


def test_slips_are_told() -> None:
    with pytest.raises(BatchError, match="wanted 20 or more"):
        backdoor_screen(easy_batch(5))
    with pytest.raises(LabelError, match="one class index a sample"):
        backdoor_screen(Batch(torch.rand(30, 1, 6, 6), torch.zeros(30, 6, 6, dtype=torch.int64)))
    learner = tiny_learner(guard=backdoor_screen(easy_batch(60)))
    (screen,) = learner.guard.screens
    nested = ScreenedBatch(Batch({"x": torch.rand(4, 1, 6, 6), "labels": torch.zeros(4)}))
    with pytest.raises(BatchError, match="one tensor"):
        screen(nested, learner.view())
