"""A guarded step over several batches: gradients accumulated, one verdict."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import TinyNet, tiny_batch
from torch.nn.functional import cross_entropy

from taster import Batch, CandidateUpdate, Guard, Guarded, ScreenedBatch, Verdict, reject
from taster.core.verdict import COMMIT
from taster.errors import BatchError, GuardError


def guarded_net(guard: Guard, **options: Any) -> Guarded:
    torch.manual_seed(0)
    model = TinyNet()
    return Guarded(model, torch.optim.SGD(model.parameters(), lr=0.1), guard, **options)


def make_step(guarded: Guarded, *batches: Batch) -> Any:
    with guarded.step(batches[0]) as step:
        for i, batch in enumerate(batches):
            left = step.batch if i == 0 else step.further(batch)
            assert not step.updated
            cross_entropy(guarded.model(left.x), left.y).backward()
        guarded.optimizer.step()
        assert step.updated
        guarded.optimizer.zero_grad()
    return step


def first_six(admitted: ScreenedBatch[Batch], view: Any) -> ScreenedBatch[Batch]:
    if float(admitted.batch.x.max()) == 0:
        return admitted.drop(torch.ones(len(admitted.batch), dtype=torch.bool), "black")
    return admitted.drop(torch.arange(len(admitted.batch)) >= 6, "")


def test_screens_see_all_and_gates_judge_once() -> None:
    seen: list[CandidateUpdate] = []

    def gate(update: CandidateUpdate) -> Verdict:
        seen.append(update)
        return COMMIT

    step = make_step(guarded_net(Guard(screens=[first_six], gates=[gate])), tiny_batch(seed=1), tiny_batch(7, seed=2))
    assert (step.record.samples, step.record.dropped) == (15, 3)
    assert [(update.batch, update.samples) for update in seen] == [(None, 12)]


def test_a_refusal_hands_over_every_batch() -> None:
    refused: list[Any] = []
    guarded = guarded_net(
        Guard(gates=[lambda update: reject("no")]),
        on_refusal=lambda record, batch: refused.append((record.step, batch)),
    )
    batches = [tiny_batch(seed=1), tiny_batch(seed=2)]
    before = {name: value.clone() for name, value in guarded.model.state_dict().items()}
    make_step(guarded, *batches)
    assert [(number, batch.x is given.x) for (number, batch), given in zip(refused, batches, strict=True)] == [
        (0, True),
        (0, True),
    ]
    assert all(torch.equal(value, before[name]) for name, value in guarded.model.state_dict().items())


def test_a_batch_of_which_nothing_is_left_refuses_the_step() -> None:
    black = Batch(torch.zeros(8, 1, 6, 6), torch.zeros(8, dtype=torch.long))
    step = make_step(guarded_net(Guard(screens=[first_six])), tiny_batch(seed=1), black)
    assert step.refused
    assert (step.record.verdict.stage, step.record.verdict.reason) == ("first_six", "black")


def test_weights_are_told_of_one_batch_and_refused_of_several() -> None:
    guard = Guard(screens=[lambda admitted, view: admitted.weight(torch.full((len(admitted.batch),), 0.5))])
    with guarded_net(guard).step(tiny_batch()) as step:
        assert torch.equal(step.weights, torch.full((8,), 0.5))
    with pytest.raises(GuardError, match="weight samples of several batches"):
        make_step(guarded_net(guard), tiny_batch(seed=1), tiny_batch(seed=2))


def test_a_further_batch_is_validated() -> None:
    guarded = guarded_net(Guard(), input_range=(0.0, 1.0))
    with pytest.raises(BatchError, match="from 0 to 3"):
        make_step(
            guarded, tiny_batch(), Batch(3 * torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 6, 6), tiny_batch(2).y)
        )
    assert not guarded.in_transaction
