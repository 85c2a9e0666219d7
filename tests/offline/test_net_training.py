"""Training of a net: what it computes, and that it computes it again."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import TinyNet, tiny_batch
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Batch, Guard
from taster.core.epochs import Epochs
from taster.core.fitting import ResumableFit
from taster.core.guard import CandidateUpdate
from taster.core.training_settings import TrainingSettings
from taster.core.verdict import COMMIT, Verdict, reject
from taster.errors import BatchError, ModelError
from taster.offline import EpochEnd, NetTraining
from taster.utils.seeds import generator


def make_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(7 + seed)
    return TinyNet(dropout=0.2)


def make_plain_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(7 + seed)
    return TinyNet()


def training(**settings: object) -> NetTraining:
    return NetTraining(make_net, TrainingSettings(epochs=2, batch_size=8, **settings), seed=3)


SAMPLES = tiny_batch(30)


def test_it_is_the_loop_that_one_would_write() -> None:
    made = NetTraining(
        make_plain_net,
        TrainingSettings(epochs=2, batch_size=8, decay="linear", nesterov=True),
        seed=3,
    )
    view = made(SAMPLES)
    torch.manual_seed(7)
    model = TinyNet().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    epochs = Epochs(torch.ones(30), 8, generator(3, "offline order 0"))
    for step, places in enumerate(place for _ in range(2) for place in epochs):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 8)
        optimizer.zero_grad()
        cross_entropy(model(SAMPLES.x[places]), SAMPLES.y[places]).backward()
        optimizer.step()
    assert all(torch.equal(view.params[name], value) for name, value in model.named_parameters())
    assert all(torch.equal(view.buffers[name], value) for name, value in model.named_buffers())


def test_the_same_again_and_another_with_another_seed() -> None:
    state = torch.get_rng_state()
    first, again, other = (training(crop=1, flip=True)(SAMPLES, seed=seed).params for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_left_out_samples_change_nothing() -> None:
    weights = torch.ones(30)
    weights[20:] = 0
    found = training()(SAMPLES, weights=weights).params
    spoilt = Batch(torch.cat([SAMPLES.x[:20], torch.rand(10, 1, 6, 6)]), SAMPLES.y)
    assert all(torch.equal(found[name], value) for name, value in training()(spoilt, weights=weights).params.items())


def test_transfer_trains_the_last_layer_alone() -> None:
    view = NetTraining(make_net, TrainingSettings(epochs=1), "transfer")(SAMPLES)
    before = make_net()
    changed = {name for name, value in before.named_parameters() if not torch.equal(value, view.params[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert all(torch.equal(view.buffers[name], value) for name, value in before.named_buffers())
    with pytest.raises(ModelError, match="without a linear layer"):
        NetTraining(lambda seed: nn.Conv2d(1, 3, 3), TrainingSettings(), "transfer").check_mode()


def test_it_goes_on_from_where_it_was() -> None:
    plain = NetTraining(make_plain_net, TrainingSettings(epochs=1, batch_size=30, decay="none", momentum=0.0), seed=3)
    once = plain(SAMPLES)
    again = plain.resume(once, SAMPLES)
    twice = NetTraining(make_plain_net, TrainingSettings(epochs=2, batch_size=30, decay="none", momentum=0.0))(SAMPLES)
    # One batch holds all samples, so that their order hardly matters.
    assert all(torch.allclose(twice.params[name], value, atol=1e-5) for name, value in again.params.items())
    assert all(torch.allclose(twice.buffers[name], value, atol=1e-5) for name, value in again.buffers.items())
    assert isinstance(plain, ResumableFit)
    with pytest.raises(ModelError, match="wanted a model that this training made"):
        plain.resume(object(), SAMPLES)  # type: ignore[arg-type]


def test_a_guard_judges_the_steps_and_epochs_are_told() -> None:
    def refuse(change: CandidateUpdate) -> Verdict:
        return reject("no")

    ends: list[EpochEnd] = []
    view = training().train(SAMPLES, Guard(gates=[refuse]), on_epoch=ends.append)
    before = make_net()
    assert all(torch.equal(view.params[name], value) for name, value in before.named_parameters())
    assert [end.epoch for end in ends] == [1, 2]
    assert [len(end.records) for end in ends] == [4, 4]
    assert not any(record.verdict.committed for end in ends for record in end.records)


def test_a_training_that_comes_to_nothing_is_told() -> None:
    with pytest.raises(ModelError, match="came to nothing in epoch 1"):
        training(learning_rate=1e38)(SAMPLES)


def test_learning_rates() -> None:
    for decay, rates in (("none", [1, 1, 1]), ("linear", [1, 0.5, 0]), ("cosine", [1, 0.5, 0])):
        settings = TrainingSettings(learning_rate=1.0, decay=decay)
        assert [settings.learning_rate_at(t) for t in (0, 0.5, 1)] == pytest.approx(rates)


class Cut(nn.Module):
    """A net that ends with its last linear layer, or with something behind it."""

    def __init__(self, *, ends: bool = True) -> None:
        super().__init__()
        self.first, self.last, self.ends = nn.Linear(36, 10), nn.Linear(10, 3), ends

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.first(x.flatten(1)).relu())
        return out if self.ends else out.tanh()


def make_cut(seed: int = 0, *, ends: bool = True) -> nn.Module:
    torch.manual_seed(3)
    return Cut(ends=ends)


@pytest.mark.parametrize("ends", [True, False])
def test_features_computed_once_come_to_the_same_as_the_loop(ends: bool) -> None:
    settings = TrainingSettings(epochs=4, batch_size=7, learning_rate=0.2, label_smoothing=0.1)
    made = NetTraining(lambda seed: make_cut(ends=ends), settings, "transfer", seed=3)
    weights = torch.ones(30)
    weights[4:9] = 0
    seen: list[EpochEnd] = []
    view = made.train(SAMPLES, Guard(), weights=weights, on_epoch=seen.append)
    learner = made.learner()  # the plain loop
    order = Epochs(weights, 7, generator(3, "offline order 0"))
    for epoch in range(4):
        assert len(made.train_epoch(learner, SAMPLES, order, epoch)) == len(seen[epoch].records) == 4
    plain = learner.view()
    for name, value in plain.params.items():
        torch.testing.assert_close(view.params[name], value, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(view.outputs(SAMPLES.x), plain.outputs(SAMPLES.x), rtol=1e-4, atol=1e-5)
    assert not torch.equal(view.params["last.weight"], make_cut().state_dict()["last.weight"])
    torch.testing.assert_close(seen[-1].view.outputs(SAMPLES.x), view.outputs(SAMPLES.x))


def test_what_a_step_refuses_is_refused_in_transfer_learning_too() -> None:
    made = NetTraining(make_cut, TrainingSettings(epochs=1), "transfer", input_range=(0.0, 1.0))
    made(Batch(SAMPLES.x.clamp(0, 1), SAMPLES.y))
    with pytest.raises(BatchError, match=r"wanted \[0.0, 1.0\]"):
        made(Batch(SAMPLES.x.clamp(0, 1) + 5, SAMPLES.y))


def test_a_guard_of_a_transfer_sees_the_whole_net() -> None:
    shapes = set()

    def looks(change: CandidateUpdate) -> Verdict:
        assert isinstance(change.batch, Batch)
        shapes.add(change.batch.x.shape[1:])
        return COMMIT

    made = NetTraining(make_cut, TrainingSettings(epochs=1), "transfer")
    made.train(SAMPLES, Guard(gates=[looks]))
    assert shapes == {torch.Size([1, 6, 6])}
