"""Models, optimizers, schedulers and ways to fail for the tests of what a step leaves behind."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations

from taster import COMMIT, Batch, Guard, Guarded, Learner, reject

CLASSES = 3
DEVICE = torch.device(os.environ.get("TASTER_TEST_DEVICE", "cpu"))
"""Where the zoo lives; "cuda" runs these tests on a GPU, capturable optimizers included."""


class _Base(nn.Module):
    """A hidden layer that subclasses put something in front of."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, CLASSES)

    def before(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.before(x))


class FilledLater(_Base):
    """A buffer that is None until the first batch fills it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", None)

    def before(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = x.detach().std(0) + 0.1
        return x / self.scale


class Expanded(_Base):
    """A buffer whose elements share one place in memory, and change through it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.full((1,), 0.5))
        self.register_buffer("mean", self.place.expand(8))

    def before(self, x: Tensor) -> Tensor:
        if self.training:
            self.place.add_(0.01)
        return x - self.mean


class Resized(_Base):
    """A buffer that grows in place, and one that is replaced, at every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1), persistent=False)

    def before(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.resize_(self.seen.numel() + 1).fill_(float(x.detach().sum()))
            self.last = x.detach().mean(0)
        return x


class Counting(_Base):
    """Integer buffers, a non-persistent one, and extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("flags", torch.zeros(3, dtype=torch.bool), persistent=False)
        self.passes = {"count": 0}

    def before(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            self.flags.logical_not_()
            self.passes["count"] += 1
        return x

    def get_extra_state(self) -> dict[str, int]:
        return dict(self.passes)

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.passes = dict(state)


class Tied(nn.Module):
    """One weight under two names, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(8, 8).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.first(self.frozen(x)).relu()).relu())


class Tokens(nn.Module):
    """Embeddings, with sparse gradients or with rows that a forward pass rescales in place."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(20, 8, **options)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.embedding((x * 19).long()))


def _lazy() -> nn.Module:
    model = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(CLASSES))
    model(torch.rand(2, 8))
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, CLASSES)),
    "batch norm, cumulative": lambda: nn.Sequential(nn.BatchNorm1d(8, momentum=None), nn.Linear(8, CLASSES)),
    "layer norm": lambda: nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, CLASSES)),
    "group norm": lambda: nn.Sequential(nn.Linear(8, 6), nn.GroupNorm(2, 6), nn.ReLU(), nn.Linear(6, CLASSES)),
    "dropout": lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, CLASSES)
    ),
    "tied and frozen": Tied,
    "filled later": FilledLater,
    "expanded": Expanded,
    "resized": Resized,
    "counting": Counting,
    "lazy": _lazy,
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 6)), nn.Linear(6, CLASSES)),
    "sparse tokens": lambda: Tokens(sparse=True),
    "tokens of bounded norm": lambda: Tokens(max_norm=0.5),
}

_O = torch.optim
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: _O.SGD(p, 0.1),
    "nesterov": lambda p: _O.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd foreach": lambda p: _O.SGD(p, 0.1, momentum=0.9, foreach=True),
    "sgd fused": lambda p: _O.SGD(p, 0.1, momentum=0.9, fused=True),
    "sgd tensor lr": lambda p: _O.SGD(p, torch.tensor(0.1), momentum=0.9),
    "adam amsgrad": lambda p: _O.Adam(p, 0.01, amsgrad=True),
    "adam fused": lambda p: _O.Adam(p, 0.01, fused=True),
    "adamw foreach": lambda p: _O.AdamW(p, 0.01, foreach=True),
    "adagrad": lambda p: _O.Adagrad(p, 0.05),
    "adadelta": lambda p: _O.Adadelta(p, 1.0),
    "adamax": lambda p: _O.Adamax(p, 0.01),
    "nadam": lambda p: _O.NAdam(p, 0.01),
    "radam": lambda p: _O.RAdam(p, 0.01),
    "rmsprop": lambda p: _O.RMSprop(p, 0.01, centered=True, momentum=0.5),
    "rprop": lambda p: _O.Rprop(p, 0.01),
    "asgd": lambda p: _O.ASGD(p, 0.1),
    "adafactor": lambda p: _O.Adafactor(p, 0.05),
    "muon": lambda p: _O.Muon([q for q in p if q.dim() == 2], 0.02),
    "sparse adam": lambda p: _O.SparseAdam(p[:1], 0.01),
}

if DEVICE.type == "cuda":
    OPTIMIZERS |= {
        "adam capturable": lambda p: _O.Adam(p, 0.01, capturable=True),
        "sgd tensor lr on the GPU": lambda p: _O.SGD(p, torch.tensor(0.1, device=DEVICE), momentum=0.9),
    }

SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "none": lambda optimizer: None,
    "step": lambda optimizer: _O.lr_scheduler.StepLR(optimizer, 2, 0.5),
    "cyclic": lambda optimizer: _O.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=50, cycle_momentum="momentum" in optimizer.defaults or "betas" in optimizer.defaults
    ),
    "lambda": lambda optimizer: _O.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1 + step)),
}


def fits(model: str, optimizer: str) -> bool:
    """Whether the optimizer takes the model's gradients in a plain loop."""
    if optimizer == "sparse adam":
        return model == "sparse tokens"
    if model == "sparse tokens":
        return optimizer in ("sgd", "adagrad")
    return not (optimizer == "muon" and model == "batch norm, cumulative")


def batch(seed: int, n: int = 6) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(n, 8, generator=g), torch.randint(0, CLASSES, (n,), generator=g)).to(DEVICE)


class BrokenError(Exception):
    """What fails in these tests."""


class _Stage:
    """A gate with a state of its own, which can be told to fail."""

    def __init__(self) -> None:
        self.mode = ""
        self.observed = torch.zeros(2)

    def __call__(self, update: Any) -> Any:
        if self.mode == "gate raises":
            raise BrokenError
        # A gate computes with the model that the update has made.
        update.after.accuracy(batch(99).x, batch(99).y)
        return reject("no") if self.mode == "gate rejects" else COMMIT

    def observe(self, record: Any, view: Any) -> None:
        self.observed += 1
        if self.mode == "observation raises":
            raise BrokenError

    def state_dict(self) -> dict[str, Any]:
        return {"observed": self.observed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.observed = state["observed"].clone()


FAILURES = (
    "gate rejects",
    "gate raises",
    "observation raises",
    "loss is NaN",
    "loss raises",
    "optimizer raises",
    "screen raises",
    "batch of another shape",
)


class Subject:
    """A learner of the zoo, which can be fed honestly and made to fail."""

    def __init__(self, model: str, optimizer: str, scheduler: str = "none", seed: int = 0) -> None:
        torch.manual_seed(seed)
        net = MODELS[model]().to(DEVICE)
        made = OPTIMIZERS[optimizer]([p for p in net.parameters() if p.requires_grad])
        self.scheduler = SCHEDULERS[scheduler](made)
        self.gate = _Stage()
        self.screen_raises = False
        self.learner = Learner(net, made, cross_entropy, Guard(screens=[self._screen], gates=[self.gate]))

    def _screen(self, screened: Any, view: Any) -> Any:
        if self.screen_raises:
            raise BrokenError
        return screened

    def honest(self, seed: int) -> Any:
        torch.manual_seed(seed)  # of dropout
        record = self.learner.step(batch(seed))
        if self.scheduler is not None:
            self.scheduler.step()
        return record

    def fail(self, how: str) -> None:
        """One step that fails in this way; what a step may raise on purpose is swallowed."""
        from taster.errors import TasterError

        with self._broken(how):
            try:
                given = batch(77)
                if how == "batch of another shape":
                    given = Batch(given.x[:, :, None], given.y)
                verdict = self.learner.step(given).verdict
            except (BrokenError, TasterError):
                return
            assert not verdict.committed

    @contextmanager
    def _broken(self, how: str) -> Iterator[None]:
        loss, step = self.learner.loss, self.learner.optimizer.step

        def half_a_step(*args: Any) -> None:
            step(*args)
            raise BrokenError

        def failing(output: Tensor, y: Tensor) -> Tensor:
            if how == "loss raises":
                raise BrokenError
            return cross_entropy(output, y) * float("nan")

        self.gate.mode, self.screen_raises = how, how == "screen raises"
        if how.startswith("loss"):
            self.learner.loss = failing
        if how == "optimizer raises":
            self.learner.optimizer.step = half_a_step  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.gate.mode, self.screen_raises, self.learner.loss = "", False, loss
            if how == "optimizer raises":
                del self.learner.optimizer.step  # type: ignore[method-assign]
                if self.scheduler is not None:
                    self.learner.optimizer.step = step  # type: ignore[method-assign]

    def everything(self) -> dict[str, Any]:
        """All that a failed step must leave unchanged, copied, with shapes and strides."""
        return snapshot_of(self.learner)


def snapshot_of(learner: Learner | Guarded) -> dict[str, Any]:
    """All of a learner's state, copied."""
    own: dict[str, Any] = {}
    for prefix, module in learner.model.named_modules():
        for name, value in [*module._parameters.items(), *module._buffers.items()]:
            own[f"{prefix}.{name}"] = None if value is None else (value.detach().clone(), value.stride(), value.shape)
        own[f"{prefix} mode"] = module.training
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            own[f"{prefix} extra"] = copy.deepcopy(module.get_extra_state())
    return {
        "tensors": own,
        "optimizer": copy.deepcopy(learner.optimizer.state_dict()),
        "learner": copy.deepcopy(learner.guard_state_dict()),
        "in transaction": learner.in_transaction,
    }


def same(a: Any, b: Any) -> bool:
    """Bit for bit, through nested containers."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return (
            isinstance(a, Tensor)
            and isinstance(b, Tensor)
            and a.shape == b.shape
            and a.dtype == b.dtype
            and torch.equal(torch.nan_to_num(a.detach()), torch.nan_to_num(b.detach()))
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
