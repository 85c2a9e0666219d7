"""Models that neither layer hooks nor vmap can take, tokens, and losses whose scale depends on the samples."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Learner
from taster.client_gradients import ClientGradients, LocalSGD, merge_statistics
from taster.core.param_vectors import flatten
from taster.errors import LabelError, ModelError

COUNTS = [2, 1, 3]


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.embedding(x).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embedding, self.cell, self.out = nn.Embedding(20, 6), kind(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.cell(self.embedding(x))[0][:, -1])


class Branching(nn.Module):
    """Which layer is used depends on the values of the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.a if bool(x.mean() > 0.5) else self.b
        return self.out(layer(x).tanh())


class Keyword(nn.Module):
    """A layer whose input is a keyword argument, which a hook does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(input=x)


class OutOfOrder(nn.Module):
    """Batch norms that are called in another order than they are declared in."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.BatchNorm1d(3)
        self.first = nn.BatchNorm1d(5)
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.b(self.a(self.first(x))))


def learner_of(model: nn.Module, loss: Callable[..., torch.Tensor] = cross_entropy) -> Learner:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model.eval(), optimizer, loss, input_range=None)


def tokens() -> torch.Tensor:
    return torch.randint(0, 20, (sum(COUNTS), 4), generator=torch.Generator().manual_seed(1))


def numbers() -> torch.Tensor:
    return torch.rand(sum(COUNTS), 5, generator=torch.Generator().manual_seed(1))


def labels() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 0, 1, 2])


def one_by_one(learner: Learner, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    parts = zip(torch.split(x, COUNTS), torch.split(y, COUNTS), strict=True)
    return torch.stack([flatten(learner.view().loss_gradient(a, b)) for a, b in parts])


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor], str]] = {
    "tokens": (Tokens, tokens, "vmap"),
    "GRU": (lambda: Recurrent(nn.GRU), tokens, "loop"),
    "LSTM": (lambda: Recurrent(nn.LSTM), tokens, "loop"),
    "data-dependent branches": (Branching, numbers, "loop"),
    "keyword argument": (Keyword, numbers, "vmap"),
}


@pytest.mark.parametrize("name", MODELS)
def test_any_model_has_gradients_and_the_method_is_said(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, draw, method = MODELS[name]
    torch.manual_seed(0)
    learner, gradients = learner_of(make()), ClientGradients()
    with caplog.at_level(logging.INFO, "taster.client_gradients"):
        values, _ = gradients(learner.view(), draw(), labels(), COUNTS)
    assert gradients.method == method, gradients.reason
    assert f"computed by {method}: {gradients.reason}" in caplog.text
    expected = one_by_one(learner, draw(), labels())
    assert float(values.abs().amax(1).min()) > 0
    torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-6)
    assert values.dtype == torch.float32


@pytest.mark.parametrize("name", ["tokens", "GRU", "data-dependent branches"])
def test_any_model_can_be_trained_locally(name: str) -> None:
    make, draw, method = MODELS[name]
    torch.manual_seed(0)
    learner, x, y = learner_of(make()), draw(), labels()
    gradients = ClientGradients(local=LocalSGD(epochs=1, learning_rate=0.01))
    found, _ = gradients(learner.view(), x, y, COUNTS)
    assert gradients.method == method
    torch.testing.assert_close(found, one_by_one(learner, x, y), rtol=1e-2, atol=1e-4)


def test_float64_models_have_float64_updates() -> None:
    learner = learner_of(Keyword().double())
    values, _ = ClientGradients()(learner.view(), numbers().double(), labels(), COUNTS)
    assert values.dtype == torch.float64


LOSSES = {
    "class weights": partial(cross_entropy, weight=torch.tensor([1.0, 5.0, 0.2])),
    "a sum": nn.CrossEntropyLoss(reduction="sum"),
    "smoothed labels": nn.CrossEntropyLoss(label_smoothing=0.1),
    "an ignored label": nn.CrossEntropyLoss(ignore_index=2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_each_client_has_the_gradient_of_its_own_loss(name: str) -> None:
    torch.manual_seed(0)
    learner = learner_of(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), LOSSES[name])
    y = torch.tensor([0, 1, 1, 0, 1, 2])
    gradients = ClientGradients()
    values, _ = gradients(learner.view(), numbers(), y, COUNTS)
    assert gradients.method == "layers", gradients.reason
    torch.testing.assert_close(values, one_by_one(learner, numbers(), y), rtol=1e-4, atol=1e-6)


def test_labels_ignored_later_than_in_the_first_call_are_ignored() -> None:
    torch.manual_seed(0)
    learner, gradients = learner_of(nn.Linear(5, 3)), ClientGradients()
    gradients(learner.view(), numbers(), labels(), COUNTS)
    y = torch.tensor([0, -100, 1, 0, -100, -100])
    values, _ = gradients(learner.view(), numbers(), y, COUNTS)
    torch.testing.assert_close(values, one_by_one(learner, numbers(), y), rtol=1e-4, atol=1e-6)


def test_labels_outside_the_classes_are_named() -> None:
    with pytest.raises(LabelError, match="wanted 0 to 2"):
        ClientGradients()(learner_of(nn.Linear(5, 3)).view(), numbers(), labels() + 1, COUNTS)


def test_statistics_go_to_the_batch_norm_they_are_of() -> None:
    torch.manual_seed(0)
    learner = learner_of(OutOfOrder())
    view, x = learner.view(), numbers()
    _, statistics = ClientGradients("synchronized")(view, x, labels(), COUNTS)
    assert statistics is not None
    recorded = merge_statistics(view.buffers, dict(learner.model.named_modules()), statistics)
    learner.model.train()
    learner.model(x)
    for name, buffer in learner.model.named_buffers():
        torch.testing.assert_close(recorded[name], buffer, msg=name)


def test_a_batch_norm_that_is_called_twice_or_never_is_named() -> None:
    class Twice(OutOfOrder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.first(x))

    class Never(OutOfOrder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(self.first(x)))

    for make, said in ((Twice, "called twice"), (Never, "did not call")):
        learner = learner_of(make())
        for layer in (learner.model.first, learner.model.last):
            layer.requires_grad_(False)
        with pytest.raises(ModelError, match=said):
            ClientGradients("synchronized")(learner.view(), numbers(), labels(), COUNTS)
