"""How guards are put together, and what is no stage."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import tiny_batch

from taster import Batch, Guard, ScreenedBatch
from taster.core.client_updates import ClientUpdates
from taster.core.guard import stage_name
from taster.core.verdict import COMMIT, most_severe, reject, rewind
from taster.defences import clipping, none, probe_gate
from taster.errors import BatchError, GuardError


def test_guards_join_kind_by_kind_in_their_order() -> None:
    gate, other = probe_gate(tiny_batch()), probe_gate(tiny_batch())
    clip = clipping()
    joined = gate + clip + other + none()
    assert joined.gates == gate.gates + other.gates
    assert joined.transforms == clip.transforms
    assert list(joined) == [*clip.transforms, *gate.gates, *other.gates]
    assert repr(clip) == "Guard(transforms=[clip])"


def test_a_stage_must_be_callable() -> None:
    with pytest.raises(GuardError, match="wanted a callable"):
        Guard(gates=[3])


def test_half_a_protocol_is_told() -> None:
    class Forgetful:
        def __call__(self, change: object) -> object:
            return COMMIT

        def state_dict(self) -> dict[str, object]:
            return {}

    with pytest.raises(GuardError, match=r"Forgetful has only \['state_dict'\]"):
        Guard(gates=[Forgetful()])


def test_names_of_stages() -> None:
    assert stage_name(probe_gate(tiny_batch()).gates[0]) == "probe_gate"
    assert stage_name(stage_name) == "stage_name"


def test_admitted_counts_what_screens_do() -> None:
    admitted = ScreenedBatch(tiny_batch(6))
    mask = torch.tensor([True, False, True, False, False, False])
    fewer = admitted.weight(torch.arange(6.0)).drop(mask, "odd")
    assert (len(fewer.batch), fewer.dropped) == (4, 2)
    assert torch.equal(fewer.weights, torch.tensor([1.0, 3.0, 4.0, 5.0]))
    corrected = fewer.correct(Batch(fewer.batch.x * 0, fewer.batch.y), torch.tensor([True, True, False, False]))
    assert corrected.corrected == 2
    gone = fewer.drop(torch.ones(4, dtype=torch.bool), "rest")
    assert gone.empty
    assert gone.dropped == 6
    with pytest.raises(GuardError, match="dropped"):
        gone.batch  # noqa: B018


def test_masks_and_weights_are_checked() -> None:
    admitted = ScreenedBatch(tiny_batch(4))
    with pytest.raises(GuardError, match="boolean one of shape"):
        admitted.drop(torch.zeros(3, dtype=torch.bool), "")
    with pytest.raises(GuardError, match="boolean"):
        admitted.drop(torch.zeros(4), "")
    with pytest.raises(GuardError, match="weights of shape"):
        admitted.weight(torch.ones(3))
    with pytest.raises(GuardError, match="corrected samples"):
        admitted.correct(tiny_batch(3), torch.zeros(3, dtype=torch.bool))


def test_the_worst_verdict_holds() -> None:
    assert most_severe([]) == COMMIT
    assert most_severe([COMMIT, reject("a"), rewind(2, "b"), rewind(5, "c"), reject("d")]).reason == "c"


def test_updates_are_checked() -> None:
    with pytest.raises(BatchError, match=r"wanted \[m, d\]"):
        ClientUpdates(torch.ones(3, 2), torch.ones(2))
