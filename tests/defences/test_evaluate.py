"""`evaluate=`: a function of the user's own at a gate, however it behaves; and what `mean_bound` promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import taster
from taster import Batch, Learner
from taster.defences import metric_gate
from taster.errors import BatchError, CheckpointError, GuardError, ModelError, SettingError
from taster.stats.mean_bound import mean_bound
from taster.stats.paired_tests import paired_t_pvalue

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 1)
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.scale * self.head(self.norm(self.frozen(x)))
        return out


def learner(evaluate: Callable[[Any], Any], tolerance: Any = 0.01, **settings: Any) -> Learner:
    torch.manual_seed(0)
    model = Net()
    guard = metric_gate(evaluate=evaluate, tolerance=tolerance, **settings)
    return Learner(model, torch.optim.SGD(model.parameters(), 0.01), nn.functional.mse_loss, guard)


def quality(model: nn.Module) -> Tensor:
    out: Tensor = -(model(X).squeeze(1) - X[:, 0]).square()
    return out


@pytest.mark.parametrize("deed", ["train", "weights", "buffers", "layers", "attributes", "gradients", "half"])
def test_nothing_that_a_function_does_reaches_the_model(deed: str) -> None:
    seen: list[Tensor] = []

    def evaluate(model: Any) -> Tensor:
        seen.append(quality(model))
        if deed == "train":
            model.train()
            model(X)
        elif deed == "weights":
            model.head.weight.fill_(7.0)
        elif deed == "buffers":
            model.norm.running_mean.fill_(7.0)
        elif deed == "layers":
            model.head = nn.Linear(3, 1)
            model.extra = nn.Linear(1, 1)
        elif deed == "attributes":
            model.scale = 100.0
        elif deed == "gradients":
            model.requires_grad_(False)
        elif deed == "half":
            model.half()
        return seen[-1]

    made = learner(evaluate, tolerance=100.0)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    flags = [p.requires_grad for p in made.model.parameters()]
    view = made.view()
    first, second = view.evaluate(evaluate), view.evaluate(evaluate)
    assert torch.equal(first, second)
    made.model.eval()
    assert torch.allclose(first, quality(made.model).detach())
    made.model.train()
    assert all(torch.equal(before[name], value) for name, value in made.model.state_dict().items())
    assert [p.requires_grad for p in made.model.parameters()] == flags
    assert made.model.scale == 1.0
    assert [name for name, _ in made.model.named_children()] == ["frozen", "norm", "head"]
    assert made.step(X[:8], X[:8, :1]).verdict.committed


def test_writing_into_frozen_weights_is_told() -> None:
    def evaluate(model: Any) -> Tensor:
        model.frozen.weight.mul_(1.0)
        return quality(model)

    with pytest.raises(ModelError, match=r"writes into frozen weights \(frozen\.weight\)"):
        learner(evaluate)


def test_a_result_that_is_written_into_again_is_kept_as_it_was() -> None:
    kept = torch.empty(60)

    def evaluate(model: nn.Module) -> Tensor:
        kept.copy_(quality(model))
        return kept

    made = learner(evaluate)
    made.optimizer.param_groups[0]["lr"] = 5.0
    assert not made.step(X[:8], -50 * X[:8, :1]).verdict.committed


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (1.0, "returned float"),
        (torch.zeros(3, 2), r"returned \[3, 2\]"),
        (torch.zeros(1), "two samples or more"),
        ({}, "returned nothing"),
        ({"loss": torch.zeros(3)}, "not called loss"),
        (["a", "b"], "returned list"),
        (torch.full((3,), float("nan")), "NaN"),
    ],
)
def test_what_it_must_return(returned: Any, said: str) -> None:
    with pytest.raises(GuardError, match=said):
        learner(lambda _: returned)


def test_one_that_fails_or_changes_its_mind() -> None:
    def fails(_: Any) -> Tensor:
        raise KeyError("where")

    with pytest.raises(GuardError, match=r"evaluate failed: KeyError\('where'\)"):
        learner(fails)
    calls: list[int] = []

    def changes(model: nn.Module) -> Tensor:
        calls.append(1)
        return quality(model)[: 60 if len(calls) < 2 else 50]

    made = learner(changes)
    before = [p.clone() for p in made.model.parameters()]
    with pytest.raises(GuardError, match="50 numbers as quality, and 60 numbers"):
        made.step(X[:8], X[:8, :1])
    assert all(torch.equal(a, b) for a, b in zip(before, made.model.parameters(), strict=True))


def test_numbers_in_any_form() -> None:
    for form in (lambda q: q.tolist(), lambda q: q.numpy(), lambda q: q > -1, lambda q: (q > -1).long()):
        made = learner(lambda model, form=form: form(quality(model)), tolerance=0.9)
        assert made.step(X[:8], X[:8, :1]).verdict.committed


def test_tolerances_by_name() -> None:
    def both(model: nn.Module) -> dict[str, Tensor]:
        return {"near": quality(model), "small": -model(X).abs().squeeze(1)}

    with pytest.raises(GuardError, match="wanted those of what is measured: near, small"):
        learner(both, {"near": 0.1})
    assert learner(both, {"near": 0.1, "small": 5.0}).step(X[:8], X[:8, :1]).verdict.committed
    made = learner(both, {"near": 1e6, "small": 0.01})
    made.optimizer.param_groups[0]["lr"] = 1.0
    assert "small on the probe" in made.step(X[:8], 50 + X[:8, :1]).verdict.reason


def test_one_quantity_that_grows_takes_no_other_along() -> None:
    """Each small drop of a quantity is held against its own anchor, whatever else improves."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.w

    model = Two()
    spread = 0.001 * torch.randn(200, generator=torch.Generator().manual_seed(0))
    guard = metric_gate(
        evaluate=lambda m: {"a": m.w[0] + spread * m.w[0], "b": m.w[1] + spread * m.w[1]}, tolerance=0.5
    )
    made = Learner(model, torch.optim.SGD(model.parameters(), 1.0), lambda out, y: (out * y).sum(), guard)
    for _ in range(12):  # a falls by 0.1 while b grows by as much
        made.step(torch.ones(1, 2), torch.tensor([[0.1, -0.1]]))
    # Once that is found, half the tolerance more may be lost: to where a has to climb back from.
    assert model.w[0].item() >= -0.76
    assert made.counters["rejected"] >= 5


def test_the_state_of_another_evaluation_is_refused() -> None:
    made = learner(quality)
    made.step(X[:8], X[:8, :1])
    other = learner(lambda model: quality(model)[:50])
    with pytest.raises(CheckpointError, match="got the state of a gate with a probe of 60 samples, wanted 50"):
        other.load_state_dict(made.state_dict())


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: taster.guard(), SettingError, "got no trusted data"),
        (lambda: taster.guard(Batch(X, X), evaluate=quality, tolerance=1.0), SettingError, "without a probe"),
        (lambda: taster.guard(evaluate=quality), SettingError, "tolerance"),
        (lambda: taster.guard(evaluate=quality, task="binary", tolerance=1.0), SettingError, "a task"),
        (lambda: taster.guard(Batch(X, X), tolerance={"a": 1.0}), SettingError, "several tolerances"),
        (lambda: taster.guard(Batch(X, X), task="guess"), SettingError, "wanted one of classification"),
        (lambda: taster.guard([1, 2]), BatchError, "got a list as trusted data"),
        (lambda: taster.guard(X), BatchError, "got a Tensor as trusted data"),
        (lambda: metric_gate(Batch(X, X), tolerance=1.0), SettingError, "wanted metric_gate"),
        (lambda: metric_gate(evaluate=quality, tolerance=-1.0), SettingError, "at least 0"),
    ],
)
def test_arguments_that_do_not_belong_together(make: Callable[[], Any], error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        make()


@pytest.mark.parametrize("shape", ["normal", "heavy"])
def test_a_drop_beyond_the_bound_passes_in_at_most_one_run_of_twenty(shape: str) -> None:
    rng = np.random.default_rng(0)
    samples, deviation, tolerance, alpha, checks = 200, 0.3, 0.02, 0.01, 5
    bound = mean_bound(samples, deviation, tolerance=tolerance, alpha=alpha, checks=checks)
    missed, runs = 0, 400
    for _ in range(runs):
        for _ in range(checks):  # at every check a model that is as far below as the bound
            noise = rng.normal(size=samples) if shape == "normal" else rng.standard_t(5, size=samples) / (5 / 3) ** 0.5
            now = torch.from_numpy(-bound.max_drop + deviation * noise)
            if paired_t_pvalue(torch.zeros(samples), now, tolerance) >= alpha:
                missed += 1
                break
    assert missed / runs <= 0.05
    half = tolerance + (bound.max_drop - tolerance) / 3
    found = sum(
        paired_t_pvalue(torch.zeros(samples), torch.from_numpy(rng.normal(-half, deviation, samples)), tolerance)
        < alpha
        for _ in range(100)
    )
    assert found < 95  # so that the bound is no loose one
