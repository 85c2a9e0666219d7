"""What many clients compute at once is what each would compute by itself."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import TinyNet, tiny_batch, tiny_learner
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Learner
from taster.client_gradients import ClientGradients, LocalSGD, merge_statistics
from taster.core.param_vectors import flatten
from taster.errors import BatchError, ModelError
from taster.models import MODELS


def learner_of(model: nn.Module) -> Learner:
    return Learner(model.eval(), torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy)


class Normalised(nn.Module):
    """Layer norm over two dimensions, a strided and dilated convolution without bias, batch norm in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2), bias=False)
        self.ln = nn.LayerNorm((6,))
        self.gn = nn.GroupNorm(2, 4)
        self.fc = nn.Linear(6, 5)
        self.bn = nn.BatchNorm1d(5)
        self.out = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.gn(self.ln(self.conv(x))).relu_()
        return self.out(self.bn(self.fc(x).mean((1, 2))))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(36, 36), nn.Linear(36, 36)
        self.b.weight = self.a.weight
        self.out = nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.b(self.a(x.flatten(1)).tanh()).tanh())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(36, 36), nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.a(self.a(x.flatten(1)).tanh()).tanh())


class GoesRound(nn.Module):
    """A layer whose weight is used, and which is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(36, 36), nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(nn.functional.linear(x.flatten(1), self.a.weight, self.a.bias).tanh())


class Odd(nn.Linear):
    """A subclass that computes something else than a linear layer does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


WAYS = {
    "tiny": (TinyNet, (1, 6, 6), "layers"),
    "norms": (Normalised, (1, 7, 6), "layers"),
    "small_cnn": (lambda: MODELS["small_cnn"]((1, 8, 8), 3), (1, 8, 8), "layers"),
    "resnet18": (lambda: MODELS["resnet18"]((3, 8, 8), 3, norm="group"), (3, 8, 8), "layers"),
    "vit": (lambda: MODELS["vit"]((3, 8, 8), 3, patch=4), (3, 8, 8), "vmap"),
    "shared": (Shared, (1, 6, 6), "vmap"),
    "twice": (Twice, (1, 6, 6), "vmap"),
    "goes round": (GoesRound, (1, 6, 6), "vmap"),
    "subclass": (lambda: nn.Sequential(nn.Flatten(), Odd(36, 3)), (1, 6, 6), "vmap"),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 3)), (2, 6, 6), "vmap"),
}


@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [3, 3], [2, 1, 4]])
@pytest.mark.parametrize("name", WAYS)
def test_each_row_is_that_clients_gradient(name: str, counts: list[int]) -> None:
    make, shape, way = WAYS[name]
    torch.manual_seed(0)
    learner = learner_of(make())
    for parameter in list(learner.model.parameters())[:1]:
        parameter.requires_grad_(name != "tiny")  # a frozen one has no place in an update
    x, y = torch.rand(sum(counts), *shape), torch.randint(0, 3, (sum(counts),))
    gradients = ClientGradients()
    values, statistics = gradients(learner.view(), x, y, counts)
    assert gradients.method == way, gradients.reason
    assert bool(gradients.reason) == (way == "vmap")
    assert statistics is None
    view = learner.view()
    parts = zip(torch.split(x, counts), torch.split(y, counts), strict=True)
    expected = torch.stack([flatten(view.loss_gradient(a, b)) for a, b in parts])
    torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("memory", [1, 10_000])
@pytest.mark.parametrize("way", ["layers", "vmap"])
def test_a_bound_on_memory_changes_nothing(memory: int, way: str) -> None:
    learner, counts = tiny_learner(), [2, 3, 1, 1, 2]
    batch = tiny_batch(sum(counts))
    whole, bounded = ClientGradients(), ClientGradients(memory=memory)
    whole.method = bounded.method = way  # type: ignore[assignment]
    expected, _ = whole(learner.view(), batch.x, batch.y, counts)
    out = torch.full_like(expected, torch.nan)
    found, _ = bounded(learner.view(), batch.x, batch.y, counts, out)
    assert found is out
    torch.testing.assert_close(found, expected)


def test_synchronized_clients_are_one_large_batch() -> None:
    learner, plain = tiny_learner(), tiny_learner()
    batch = tiny_batch(12)
    view = learner.view()
    for counts in ([1] * 12, [4, 4, 4]):
        values, statistics = ClientGradients("synchronized")(view, batch.x, batch.y, counts)
        assert statistics is not None
        plain.model.load_state_dict(learner.model.state_dict())
        plain.model.train()
        plain.model.zero_grad()
        cross_entropy(plain.model(batch.x), batch.y).backward()
        expected = flatten({n: p.grad for n, p in plain.model.named_parameters()})
        torch.testing.assert_close(values.mean(0), expected, rtol=1e-4, atol=1e-6)
        recorded = merge_statistics(view.buffers, dict(plain.model.named_modules()), statistics)
        for name, buffer in plain.model.named_buffers():
            torch.testing.assert_close(recorded[name], buffer)
    assert torch.equal(learner.model.bn.running_mean, torch.zeros(4))  # looking changes nothing


def test_one_local_epoch_over_one_batch_is_the_gradient() -> None:
    learner, counts = tiny_learner(), [3, 1, 3]
    learner.model.eval()
    batch = tiny_batch(7)
    expected, _ = ClientGradients()(learner.view(), batch.x, batch.y, counts)
    local = ClientGradients(local=LocalSGD(epochs=1, learning_rate=0.01))
    found, _ = local(learner.view(), batch.x, batch.y, counts)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("memory", [1, 2**20])
def test_local_epochs_are_sgd_on_the_clients_own_samples(memory: int) -> None:
    learner, counts = tiny_learner(), [4, 2, 4]
    learner.model.eval()
    batch = tiny_batch(10)
    local = LocalSGD(epochs=2, batch_size=2, learning_rate=0.2)
    found, _ = ClientGradients(local=local, memory=memory)(learner.view(), batch.x, batch.y, counts)
    start = 0
    for row, count in zip(found, counts, strict=True):
        own = tiny_learner()
        own.model.eval()
        before = flatten(dict(own.model.named_parameters())).detach().clone()
        optimizer = torch.optim.SGD(own.model.parameters(), lr=0.2)
        for _ in range(2):
            for i in range(start, start + count, 2):
                optimizer.zero_grad()
                cross_entropy(own.model(batch.x[i : i + 2]), batch.y[i : i + 2]).backward()
                optimizer.step()
        after = flatten(dict(own.model.named_parameters())).detach()
        torch.testing.assert_close(row, (before - after) / 0.2, rtol=1e-3, atol=1e-5)
        start += count


def test_what_cannot_be_meant_is_told() -> None:
    learner, batch = tiny_learner(), tiny_batch(4)
    for counts in ([1, 2], [4, 0], []):
        with pytest.raises(BatchError, match="counts"):
            ClientGradients()(learner.view(), batch.x, batch.y, counts)
    with pytest.raises(ModelError, match="local"):
        ClientGradients("synchronized", LocalSGD(epochs=1))
    shared = learner_of(Shared())
    with pytest.raises(ModelError, match="need 'vmap'"):
        ClientGradients("synchronized")(shared.view(), batch.x, batch.y, [1] * 4)
