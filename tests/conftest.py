"""Small models, batches and recipes that tests share."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Batch, Guard, Learner
from taster.experiments import Recipe, read_recipe
from taster.experiments import run_recipe as run_recipe_anywhere

# Machines differ in speed, so no test has a deadline. The default tier draws the same examples every time.
_ANY_SPEED: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
hypothesis.settings.register_profile("default", max_examples=25, derandomize=True, database=None, **_ANY_SPEED)
hypothesis.settings.register_profile("thorough", max_examples=1000, print_blob=True, **_ANY_SPEED)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough", action="store_true", help="run the long fuzzing, tracing and killing, with more cases"
    )


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("thorough" if config.getoption("--thorough") else "default")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--thorough"):
        for item in items:
            if item.get_closest_marker("thorough"):
                item.add_marker(pytest.mark.skip(reason="takes long: run with --thorough"))


@pytest.fixture(scope="session")
def thorough(pytestconfig: pytest.Config) -> bool:
    """Whether the long tier was asked for, for tests that choose their number of cases by it."""
    return bool(pytestconfig.getoption("--thorough"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASTER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def data_folder() -> Path:
    """Where the larger data sets lie."""
    folder = os.environ.get("TASTER_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the larger data sets: set TASTER_DATA to their folder")
    return Path(folder)


class TinyNet(nn.Module):
    """Convolution, batch norm, pooling, linear: everything that keeps state, in a few hundred numbers."""

    def __init__(self, classes: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        return self.fc(self.dropout(x.mean((2, 3))))


def tiny_learner(seed: int = 0, guard: Guard | None = None, optimizer: str = "sgd", **options: Any) -> Learner:
    torch.manual_seed(seed)
    model = TinyNet()
    if optimizer == "sgd":
        chosen: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    else:
        chosen = torch.optim.AdamW(model.parameters(), lr=0.01)
    return Learner(model, chosen, cross_entropy, guard, **{"input_range": (0.0, 1.0), **options})


def tiny_batch(n: int = 8, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(n, 1, 6, 6, generator=g), torch.randint(0, 3, (n,), generator=g))


def full_state(learner: Learner) -> dict[str, Any]:
    """Everything a refused step must leave as it was, copied."""
    optimizer = learner.optimizer
    return {
        "model": {k: v.clone() for k, v in learner.model.state_dict().items()},
        "optimizer": {
            (i, k): v.clone() if isinstance(v, torch.Tensor) else v
            for i, state in optimizer.state_dict()["state"].items()
            for k, v in state.items()
        },
        "groups": [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
    }


def same_state(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Bit for bit."""

    def equal(u: Any, v: Any) -> bool:
        return torch.equal(u, v) if isinstance(u, torch.Tensor) and isinstance(v, torch.Tensor) else u == v

    return a["groups"] == b["groups"] and all(
        a[part].keys() == b[part].keys() and all(equal(a[part][k], b[part][k]) for k in a[part])
        for part in ("model", "optimizer")
    )


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*arguments: str | Path) -> Outcome:
    """Runs the command in this process, by its entry point. Anything that it raises but its exit is raised."""
    from taster.cli import main

    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["taster", *map(str, arguments)])
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        patch.setattr("taster.utils.allocator.retain_freed_memory", lambda: False)  # a whole process is kept that way
        with pytest.raises(SystemExit) as left:
            main()
    code = left.value.code
    for stream in streams:
        stream.flush()
    texts = [stream.buffer.getvalue().decode() for stream in streams]  # type: ignore[attr-defined]
    return Outcome(code if isinstance(code, int) else int(code is not None), *texts)


TINY_RECIPE = """
name = "tiny"
seeds = [0, 1]
[data]
source = "digits"
[split]
burn_in = 200
trigger = 20
validation = 60
monitor = 50
probe = 50
test = 60
[model]
name = "mlp"
hidden = [16]
[burn_in]
epochs = 2
batch_size = 20
keep_epochs = [1]
[stream]
batch_size = 20
[schedule]
steps = 2
[compute]
threads = 1
[[attack]]
name = "none"
[[attack]]
name = "accumulative"
epsilon = 0.2
pgd_steps = 2
validation_size = 40
[[defence]]
name = "none"
[[defence]]
name = "probe_gate"
"""


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE)
    return path


@pytest.fixture
def recipe_with(tmp_path: Path) -> Callable[..., Path]:
    """The tiny recipe with pieces of its text replaced."""

    def make(*changes: tuple[str, str]) -> Path:
        text = TINY_RECIPE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / "changed.toml"
        path.write_text(text)
        return path

    return make


Rows = list[dict[str, Any]]


def run_recipe(recipe: Recipe, out: Path, *, jobs: int = 1, **options: Any) -> Rows:
    """In this process unless a test says otherwise: starting others takes seconds."""
    rows: Any = run_recipe_anywhere(recipe, out, jobs=jobs, **options)
    return rows


def without_times(rows: Rows) -> Rows:
    return [{k: v for k, v in row.items() if k != "cost" and not k.startswith("seconds")} for row in rows]


def files_without_times(run: Path) -> Rows:
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    return [{k: v for k, v in step.items() if k != "seconds"} for step in steps]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows]:
    """The tiny recipe's directory and rows. Tests read it; one that writes copies it first."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "tiny.toml").write_text(TINY_RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TASTER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        rows = run_recipe(read_recipe(str(folder / "tiny.toml")), folder / "run")
    return folder / "run", rows


@pytest.fixture(autouse=True)
def _one_order_of_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates that are given no seed look at trusted samples in the same order each time."""
    monkeypatch.setattr("secrets.randbits", lambda k: 1)
