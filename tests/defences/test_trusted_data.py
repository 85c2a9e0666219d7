"""Trusted data that cannot judge the model are a named error before the first step; at renewal, before any change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_learner
from tests.defences.conftest import easy, poison, trained
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

import taster
from taster import Batch, Guard, Learner, SnapshotBuffer
from taster.defences import (
    accuracy_monitor,
    agem_projection,
    anomaly_screen,
    dagc,
    discrepancy_screen,
    dsc,
    influence_screen,
    loss_alarm,
    metric_gate,
    probe_gate,
    retry_low_score_half,
)
from taster.errors import BatchError, GuardError, LabelError, ModelError, TasterError

Build = Callable[[Batch], Guard]


def quality(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -cross_entropy(output, y, reduction="none")


STAGES: dict[str, Build] = {
    "guard": taster.guard,
    "probe_gate": probe_gate,
    "metric_gate": lambda probe: metric_gate(probe, quality, tolerance=0.1),
    "loss_alarm": lambda probe: loss_alarm(probe, torch.Generator()),
    "accuracy_monitor": accuracy_monitor,
    "agem_projection": agem_projection,
    "dagc": lambda probe: dagc(probe, reference_model=1, learning_rate=0.1),
    "dsc": lambda probe: dsc(probe, reference_model=1),
    "discrepancy_screen": lambda probe: discrepancy_screen(probe, reference_model=1),
    "anomaly_screen": anomaly_screen,
    "influence_screen": influence_screen,
    "retry": lambda probe: retry_low_score_half(probe, score="influence"),
}
CLASSIFIERS = ("guard", "probe_gate", "accuracy_monitor", "loss_alarm", "anomaly_screen")
"""Stages that judge classes."""


def one_bad(value: float) -> Batch:
    """A probe with a single bad number, in a sample of each half."""
    probe = easy(60)
    probe.x[7, 0, 0, 0] = probe.x[43, 0, 0, 0] = value
    return probe


def learner(guard: Guard, **options: Any) -> Learner:
    return tiny_learner(guard=guard, snapshots=SnapshotBuffer(capacity=10), **options)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_errors_at_construction(name: str, value: float) -> None:
    with pytest.raises(BatchError, match=r"NaN or infinity in \d of \d+ trusted samples \(the first has index \d+\)"):
        STAGES[name](one_bad(value))


@pytest.mark.parametrize("name", STAGES)
def test_labels_that_are_not_finite_are_errors_at_construction(name: str) -> None:
    probe = easy(60)
    with pytest.raises(BatchError, match=r"NaN or infinity in .* trusted labels"):
        STAGES[name](Batch(probe.x, torch.full((60,), float("nan"))))


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (lambda y: one_hot(y, 3).float(), r"\[\d0, 3\] of torch.float32, wanted class indices"),
        (lambda y: y.float(), "wanted class indices of torch.int64"),
        (lambda y: y.int(), r"got trusted labels of torch.int32, wanted class indices of torch.int64: y.long\(\)"),
        (lambda y: y - 100, "got a trusted label of -100, wanted class indices from 0"),
    ],
    ids=["soft", "float", "int32", "negative"],
)
def test_labels_that_are_not_classes_are_errors_before_the_first_step(name: str, labels: Any, said: str) -> None:
    probe = easy(60)
    with pytest.raises(LabelError, match=said):
        learner(STAGES[name](Batch(probe.x, labels(probe.y))))


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("change", ["0..255", "float64", "one more dimension", "whole numbers"])
def test_samples_the_model_cannot_take_are_errors_before_the_first_step(name: str, change: str) -> None:
    probe = easy(60)
    x = {
        "0..255": probe.x * 255,
        "float64": probe.x.double(),
        "one more dimension": probe.x[:, :, None],
        "whole numbers": (probe.x * 255).to(torch.uint8),
    }[change]
    with pytest.raises(BatchError, match="trusted samples"):
        learner(STAGES[name](Batch(x, probe.y)))


@pytest.mark.parametrize("name", [*CLASSIFIERS, "agem_projection", "influence_screen", "retry"])
def test_labels_without_an_output_are_errors_before_the_first_step(name: str) -> None:
    probe = easy(60)
    with pytest.raises(LabelError, match="wanted 0 to 2"):
        learner(STAGES[name](Batch(probe.x, probe.y + 5)))


@pytest.mark.parametrize("name", ["accuracy_monitor", "loss_alarm", "anomaly_screen"])
def test_a_model_with_one_output_is_an_error_before_the_first_step(name: str) -> None:
    net, probe = nn.Sequential(nn.Flatten(), nn.Linear(36, 1)), easy(60)
    guard = STAGES[name](Batch(probe.x, probe.y % 2))
    with pytest.raises(ModelError, match="wanted one output per class"):
        Learner(
            net,
            torch.optim.SGD(net.parameters(), 0.1),
            lambda output, y: binary_cross_entropy_with_logits(output.squeeze(1), y.float()),
            guard,
        )


def test_anything_but_a_batch_is_an_error() -> None:
    probe = easy(60)
    with pytest.raises(BatchError, match="got a tuple as trusted data, wanted a taster"):
        probe_gate((probe.x, probe.y))  # type: ignore[arg-type]
    with pytest.raises(BatchError, match="got 1 trusted samples, wanted 2 or more"):
        probe_gate(probe.select(slice(1)))


def test_a_sound_probe_passes_all_checks() -> None:
    for name, build in STAGES.items():
        record = trained(learner(build(easy(60))), 3).step(easy(32, seed=5))
        assert record.samples == 32, name


@pytest.mark.parametrize("name", STAGES)
def test_a_bad_renewal_is_an_error_and_changes_nothing(name: str) -> None:
    """Of two guards, one is offered bad data; afterwards both learn the same."""
    subjects = [trained(learner(STAGES[name](easy(200))), 4) for _ in range(2)]
    with pytest.raises(BatchError, match="NaN or infinity"):
        subjects[0].guard.set_trusted_data(one_bad(float("nan")))
    for i in range(3):
        records = [subject.step(easy(32, seed=50 + i)) for subject in subjects]
        assert records[0].verdict == records[1].verdict
    assert same_state(*(full_state(subject) for subject in subjects))


def test_a_renewal_that_one_stage_refuses_reaches_none() -> None:
    guard = agem_projection(easy(60)) + probe_gate(easy(60))
    other = Batch(easy(40).x, easy(40).y.int())
    with pytest.raises(LabelError):
        guard.set_trusted_data(other)
    assert len(guard.transforms[0]._probe) == 60  # type: ignore[attr-defined]


def test_a_renewed_probe_is_checked_before_the_next_step() -> None:
    subject = trained(learner(probe_gate(easy(200))), 4)
    before, steps = full_state(subject), subject.steps
    subject.guard.set_trusted_data(Batch(easy(100).x * 255, easy(100).y))
    with pytest.raises(BatchError, match="from 0 to 255, wanted"):
        subject.step(easy(32))
    assert same_state(before, full_state(subject))
    assert subject.steps == steps
    subject.guard.set_trusted_data(easy(100))
    assert subject.step(easy(32)).verdict.committed


def test_another_guard_is_checked_before_its_first_step() -> None:
    subject = trained(learner(Guard()), 2)
    subject.guard = influence_screen(Batch(easy(60).x, easy(60).y + 5))
    with pytest.raises(LabelError):
        subject.step(easy(32))


def test_a_learner_with_misfit_trusted_data_is_not_made() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    guard = probe_gate(Batch(easy(60).x, easy(60).y + 5))
    with pytest.raises(TasterError):
        Learner(net, torch.optim.SGD(net.parameters(), 0.1), cross_entropy, guard)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_probe_in_the_learners_own_range_is_judged_as_one_in_0_to_1() -> None:
    """An honest model and its poison, in another scale of the data."""

    def scaled(batch: Batch) -> Batch:
        return Batch(batch.x * 255, batch.y, batch.loss_weight)

    class Scaled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x / 255)

    net = Scaled(tiny_learner().model)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    subject = Learner(net, optimizer, cross_entropy, probe_gate(scaled(easy(200))), input_range=(0.0, 255.0))
    for i in range(40):
        subject.step(scaled(easy(32, seed=i)))
    assert not subject.step(scaled(poison(easy(64, seed=77), 50.0))).verdict.committed


@pytest.mark.parametrize(("bad", "said"), [(0, "on 1 of 200 trusted samples"), (slice(0, 5), "on 5 of 200")])
def test_a_metric_of_nan_is_an_error_before_the_first_step(bad: Any, said: str) -> None:
    def metric(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = quality(output, y)
        found[bad] = float("nan")
        return found

    with pytest.raises(GuardError, match=f"the metric is NaN or infinite {said}"):
        learner(metric_gate(easy(200), metric, tolerance=0.1))


def test_an_update_that_makes_the_metric_nan_is_refused_and_says_so() -> None:
    nan = False

    def metric(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return quality(output, y) * (float("nan") if nan else 1.0)

    subject = learner(metric_gate(easy(200), metric, tolerance=0.1))
    assert subject.step(easy(32)).verdict.committed
    before, nan = full_state(subject), True
    verdict = subject.step(easy(32, seed=2)).verdict
    assert "after the update the metric is NaN or infinite on 200 of 200 trusted samples" in verdict.reason
    assert same_state(before, full_state(subject))
    nan = False
    assert subject.step(easy(32, seed=3)).verdict.committed


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (lambda output, y: 1.0, "returned float"),
        (lambda output, y: output, r"returned \[200, 3\]"),
        (lambda output, y: 1 / 0, "the metric failed .* ZeroDivisionError"),
        (lambda output, y: torch.ones(200, dtype=torch.complex64), "wanted one real number per sample"),
    ],
)
def test_a_metric_of_another_kind_is_an_error_before_the_first_step(metric: Any, said: str) -> None:
    with pytest.raises(GuardError, match=said):
        learner(metric_gate(easy(200), metric, tolerance=0.1))


def test_an_update_after_which_the_model_is_nan_on_the_probe_is_refused() -> None:
    """A model that divides by the distance of a parameter to zero, which the probe alone reaches."""

    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
            self.broken = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.inner(x)
            return out * float("nan") if self.broken and len(x) == 200 else out

    net = Fragile()

    def break_it(gradient: dict[str, torch.Tensor], view: Any) -> dict[str, torch.Tensor]:
        net.broken = True
        return gradient

    subject = Learner(net, torch.optim.SGD(net.parameters(), 0.1), cross_entropy, probe_gate(easy(200)))
    assert subject.step(easy(32)).verdict.committed
    subject.guard = Guard(transforms=[break_it]) + subject.guard
    verdict = subject.step(easy(32, seed=2)).verdict
    assert not verdict.committed
    assert "NaN or infinite on 200 of 200 trusted samples" in verdict.reason


def test_a_probe_gradient_of_nan_never_lets_a_gradient_pass() -> None:
    (project,) = agem_projection(easy(60)).transforms
    subject = learner(Guard())
    gradient = subject.view().loss_gradient(easy(16).x, easy(16).y)

    class NanView:
        def loss_gradient(self, batch: Batch) -> dict[str, torch.Tensor]:
            return {name: value * float("nan") for name, value in gradient.items() if len(batch)}

    found = project(gradient, NanView())  # type: ignore[arg-type]
    assert all(bool(value.isnan().all()) for value in found.values())
