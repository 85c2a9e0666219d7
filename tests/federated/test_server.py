"""What a server refuses at once: rules that are none, and matrices that do not fit its model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_learner

from taster import Batch, Learner
from taster.errors import BatchError, GuardError
from taster.federated import ClientReply, NamedClientUpdates, ReplyFormat, Server, averaged_buffers, coordinate_median
from taster.federated import fltrust as make_fltrust

D = 63


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (coordinate_median, r"call coordinate_median\(\)"),
        (lambda values: values[0], "values .m, d. and weights"),
        ("mean", "got str"),
        (None, "got NoneType"),
    ],
)
def test_a_rule_that_cannot_take_values_and_weights_is_refused(rule: Any, said: str) -> None:
    with pytest.raises(GuardError, match=said):
        Server(tiny_learner(), rule)


def test_rules_that_depend_on_the_model_are_accepted() -> None:
    probe = Batch(torch.rand(4, 1, 6, 6), torch.tensor([0, 1, 2, 0]))
    outcome = Server(tiny_learner(), make_fltrust(probe)).receive([ClientReply("a", torch.ones(D))], ["a"])
    assert outcome.record.verdict.committed


@pytest.mark.parametrize("returned", [None, 1.0, torch.ones(D + 1), torch.ones(1, D)])
def test_a_rule_that_returns_no_update_is_named_and_changes_nothing(returned: Any) -> None:
    def odd_rule(values: torch.Tensor, weights: torch.Tensor) -> Any:
        return returned

    learner = tiny_learner()
    before = full_state(learner)
    with pytest.raises(GuardError, match="the aggregation rule odd_rule returned"):
        Server(learner, odd_rule).receive([ClientReply("a", torch.ones(D))], ["a"])
    assert same_state(full_state(learner), before)


@pytest.mark.parametrize("ratio", [0.5, float("nan"), float("inf")])
def test_a_weight_ratio_that_would_reject_or_admit_everyone_is_refused(ratio: float) -> None:
    with pytest.raises(BatchError, match="max_weight_ratio"):
        Server(tiny_learner(), max_weight_ratio=ratio)


def test_matrices_of_another_model_are_refused_whole() -> None:
    server = Server(tiny_learner())
    for beside in ({}, {"statistics": torch.zeros(2, 4)}, {"buffers": torch.zeros(2, 9)}):
        size = D if beside else D - 1
        updates = NamedClientUpdates(torch.zeros(2, size), torch.ones(2), clients=("a", "b"), **beside)
        with pytest.raises(BatchError, match="for each client, wanted"):
            server.step(updates)
    both = NamedClientUpdates(torch.zeros(1, D), torch.ones(1), ("a",), torch.zeros(1, 9), torch.zeros(1, 8))
    with pytest.raises(BatchError, match="wanted one of them"):
        server.step(both)
    with pytest.raises(BatchError, match="side_data: got 'scores'"):
        server.receive([], ["a"], side_data="scores")  # type: ignore[arg-type]
    assert server.learner.steps == 0


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_an_invitation_of_nobody_or_of_somebody_twice_is_refused(names: list[str]) -> None:
    with pytest.raises(BatchError, match="invited"):
        Server(tiny_learner()).receive([], names)


class Masked(torch.nn.Module):
    """Buffers of every kind beside a layer: infinite, expanded, of integers, absent, and one that can be averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(5, 3)
        self.register_buffer("mask", torch.full((3,), -torch.inf))
        self.register_buffer("wide", torch.ones(1).expand(4))
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("center", torch.zeros(5))
        self.register_buffer("later", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x - self.center)


def test_buffers_that_cannot_be_averaged_stay_the_servers() -> None:
    model = Masked()
    assert list(averaged_buffers(model)) == ["center"]
    side = ReplyFormat.of(model, "buffers").side
    assert side is not None
    assert side.size == 5
    learner = Learner(model, torch.optim.SGD(model.parameters(), 0.1), torch.nn.functional.cross_entropy)
    reply = ClientReply("a", torch.ones(18), buffers=torch.full((5,), 2.0))
    assert Server(learner).receive([reply], ["a"], side_data="buffers").record.verdict.committed
    assert torch.equal(model.center, torch.full((5,), 2.0))
    assert bool(model.mask.isinf().all())


def test_a_model_without_buffers_wants_none() -> None:
    model = torch.nn.Linear(5, 3)
    learner = Learner(model, torch.optim.SGD(model.parameters(), 0.1), torch.nn.functional.cross_entropy)
    replies = [ClientReply("a", torch.ones(18)), ClientReply("b", torch.ones(18), buffers=torch.zeros(1))]
    outcome = Server(learner).receive(replies, ["a", "b"], side_data="buffers")
    assert list(outcome.rejected_clients) == ["b"]
    assert outcome.record.verdict.committed


def test_updates_of_whole_numbers_or_from_arrays_are_accepted() -> None:
    replies = [
        ClientReply("a", torch.ones(D, dtype=torch.int8)),
        ClientReply("b", torch.ones(D).numpy()),
        ClientReply("c", torch.ones(D, dtype=torch.float64, requires_grad=True), torch.tensor(1.0)),
    ]
    assert Server(tiny_learner()).receive(replies, ["a", "b", "c"]).rejected_clients == {}
