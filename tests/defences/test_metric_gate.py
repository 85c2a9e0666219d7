"""A gate for a model that is no classifier."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from taster import Batch, Learner
from taster.defences import metric_gate
from taster.errors import GuardError, SettingError


def regression(n: int, seed: int) -> Batch:
    x = torch.rand(n, 3, generator=torch.Generator().manual_seed(seed))
    return Batch(x, x @ torch.tensor([[1.0], [-2.0], [0.5]]))


def negative_error(output: Tensor, y: Tensor) -> Tensor:
    return -(output - y).square().flatten(1).mean(1)


def learner() -> Learner:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    guard = metric_gate(regression(200, 9), negative_error, tolerance=0.01)
    made = Learner(model, torch.optim.SGD(model.parameters(), 0.3), nn.functional.mse_loss, guard)
    for i in range(60):
        assert made.step(regression(32, i)).verdict.committed
    return made


def test_wrong_targets_are_refused_and_honest_ones_learned() -> None:
    made = learner()
    probe = regression(500, 77)
    error = float(made.view().loss(probe.x, probe.y))
    assert error < 0.02
    wrong = regression(32, 100)
    record = made.step(Batch(wrong.x, -wrong.y))
    assert not record.verdict.committed
    assert record.verdict.stage == "metric_gate"
    assert record.verdict.evidence["drop"] > 0.01 > record.verdict.evidence["p"] * 0.1
    assert "against the last check" in record.verdict.reason
    assert made.step(regression(32, 101)).verdict.committed
    assert float(made.view().loss(probe.x, probe.y)) <= error + 0.01


def test_harm_does_not_add_up() -> None:
    made = learner()
    probe = regression(500, 77)
    for group in made.optimizer.param_groups:
        group["lr"] = 0.002
    reasons = []
    for i in range(200):
        wrong = regression(32, 200 + i)
        reasons.append(made.step(Batch(wrong.x, -wrong.y)).verdict.reason)
    assert any("against the anchor" in reason for reason in reasons)
    assert float(made.view().loss(probe.x, probe.y)) < 0.06


@pytest.mark.parametrize(
    "bad", [{"tolerance": -1.0}, {"alpha": 0.0}, {"alpha": 1.0}, {"check_every": 0}, {"max_rewind": -1}]
)
def test_settings_out_of_range_are_errors(bad: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=f"metric_gate: {next(iter(bad))}: got"):
        metric_gate(regression(20, 0), negative_error, **{"tolerance": 0.1, **bad})


def test_a_metric_that_returns_one_number_is_an_error() -> None:
    model = nn.Linear(3, 1)
    guard = metric_gate(regression(20, 0), lambda output, y: (output - y).mean(), tolerance=0.1)
    with pytest.raises(GuardError, match=r"returned \[\] of torch.float32, wanted one real number per sample, \[20\]"):
        Learner(model, torch.optim.SGD(model.parameters(), 0.1), nn.functional.mse_loss, guard)
