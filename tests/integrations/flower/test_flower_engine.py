"""The same rounds in one process and on Flower, in this process's nodes and in Ray's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason='needs the extra: pip install "taster[flower]"')

import torch
from flwr.app import Message
from flwr.clientapp import ClientApp
from tests.conftest import TinyNet, tiny_batch
from tests.integrations.flower.nodes import Nodes
from torch.nn.functional import cross_entropy

import taster
from taster import Batch, Guard, Learner, Phase
from taster.attacks import alie, label_flip, mimic, reverse_trigger, sign_flip
from taster.attacks.updates.accumulative_updates import AccumulationSettings, accumulative_updates
from taster.client_gradients import ClientGradients, LocalSGD
from taster.data import Images
from taster.defences import probe_gate
from taster.errors import RecipeError, RunDirectoryError, WorkerError
from taster.experiments import RunDirectory, read_recipe, run_recipe
from taster.federated import ClientPool, Server, Simulation, iid_partition, krum, mean
from taster.integrations.flower import FlowerSimulation, simulate, simulated_clients_app

CLIENTS, PER_ROUND, ROUNDS = 8, 6, 3


def images() -> Images:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (160, 1, 6, 6), generator=g, dtype=torch.uint8)
    return Images(x, torch.randint(0, 3, (160,), generator=g))


def parts(attack: Any, rule: Any, guard: Guard, gradients: ClientGradients, share: float) -> dict[str, Any]:
    """What both simulations are made of; made twice, as both change it."""
    torch.manual_seed(0)
    model = TinyNet()
    learner = Learner(model, torch.optim.SGD(model.parameters(), 0.5, momentum=0.9), cross_entropy, guard)
    shares = iid_partition(160, CLIENTS, torch.Generator().manual_seed(1))
    pool = ClientPool(
        images(), shares, clients_per_round=PER_ROUND, samples_per_round=5, malicious_fraction=share, seed=3
    )
    return {
        "server": Server(learner, rule),
        "pool": pool,
        "gradients": gradients,
        "attack": attack(torch.Generator().manual_seed(2)),
    }


def probe() -> Batch:
    return tiny_batch(40, seed=9)


def accumulative(draws: torch.Generator) -> Any:
    settings = AccumulationSettings(validation_size=20)
    return accumulative_updates(tiny_batch(12, seed=5), lambda n: tiny_batch(n, seed=6), draws, accumulation=settings)


SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "honest mean": lambda: parts(lambda _: alie(), mean, Guard(), ClientGradients(), 0.0),
    "krum, sign flip": lambda: parts(
        lambda _: sign_flip(scale=4.0), krum(num_byzantine=1), Guard(), ClientGradients(), 0.3
    ),
    "probe gate, accumulative": lambda: parts(accumulative, mean, probe_gate(probe()), ClientGradients(), 0.3),
    "mimic, which remembers": lambda: parts(mimic, mean, Guard(), ClientGradients(), 0.3),
    "a reversed trigger": lambda: parts(reverse_trigger, mean, Guard(), ClientGradients(), 0.3),
    "wrong labels": lambda: parts(label_flip, mean, Guard(), ClientGradients(), 0.3),
}
LOCAL = ClientGradients(local=LocalSGD(2, 2, 0.05))
MORE: dict[str, Callable[[], dict[str, Any]]] = {
    "local training": lambda: parts(lambda _: alie(), mean, Guard(), LOCAL, 0.3),
    "synchronized": lambda: parts(lambda _: sign_flip(), mean, Guard(), ClientGradients("synchronized"), 0.3),
}


def ran(simulation: Simulation) -> list[Any]:
    trigger = tiny_batch(12, seed=5)
    phases = [Phase.DORMANT, *[Phase.ACCUMULATE] * (ROUNDS - 1), Phase.TRIGGER]
    return [simulation.round(phase, trigger if phase is Phase.TRIGGER else None).record for phase in phases]


def apart(a: Simulation, b: Simulation) -> float:
    """The largest difference of what the two have learned, buffers too."""
    ours, theirs = a.server.learner.model.state_dict(), b.server.learner.model.state_dict()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def same(make: Callable[[], dict[str, Any]], grid: Any) -> float:
    plain, flower = Simulation(**make()), FlowerSimulation(**make(), grid=grid)
    start = [p.detach().clone() for p in plain.server.learner.model.parameters()]
    for ours, theirs in zip(ran(flower), ran(plain), strict=True):
        assert (ours.verdict.action, ours.phase, ours.samples) == (theirs.verdict.action, theirs.phase, theirs.samples)
        assert ours.gradient_norm_before == pytest.approx(theirs.gradient_norm_before, rel=1e-4)
    now = [p.detach() for p in plain.server.learner.model.parameters()]
    moved = max(float((p - q).abs().max()) for p, q in zip(now, start, strict=True))
    assert apart(flower, plain) < 1e-5 < 1e-3 < moved
    return apart(flower, plain)


def nodes(gradients: ClientGradients | None = None, count: int = PER_ROUND) -> Nodes:
    app = simulated_clients_app(TinyNet, lambda: gradients or ClientGradients())
    return Nodes(dict.fromkeys(range(10, 10 + count), app))


@pytest.mark.parametrize("name", list(SETTINGS))
def test_nodes_of_this_process_give_the_same_rounds(name: str) -> None:
    same(SETTINGS[name], nodes())


@pytest.mark.parametrize("name", list(MORE))
def test_what_clients_compute_is_as_it_was_set(name: str) -> None:
    same(MORE[name], nodes(MORE[name]()["gradients"]))


def test_the_attackers_nodes_themselves_send_what_the_attack_decides() -> None:
    grid = nodes()
    simulation = FlowerSimulation(**SETTINGS["krum, sign flip"](), grid=grid)
    simulation.round(Phase.ACCUMULATE)
    orders = [m for m in grid.got if "taster.order" in m.content]
    assert len(orders) == simulation.pool.num_malicious == 2
    assert len(grid.sent) == PER_ROUND + 2


def test_a_node_that_fails_ends_the_run_and_is_not_left_out() -> None:
    def failing(message: Message, context: Any) -> Message:
        raise RuntimeError("out of memory, say")

    app = ClientApp()
    app.train()(failing)
    grid = nodes()
    grid.apps[12] = app
    with pytest.raises(WorkerError, match="1 of 6 nodes failed: out of memory, say"):
        FlowerSimulation(**SETTINGS["honest mean"](), grid=grid).round(Phase.DORMANT)
    grid.apps[12] = None
    with pytest.raises(WorkerError, match="1 of 6 nodes failed: they sent nothing"):
        FlowerSimulation(**SETTINGS["honest mean"](), grid=grid).round(Phase.DORMANT)
    with pytest.raises(WorkerError, match="got 3 nodes, wanted one for each of the 6"):
        FlowerSimulation(**SETTINGS["honest mean"](), grid=nodes(count=3)).round(Phase.DORMANT)


def on_ray() -> None:
    """Three settings in one session, and the largest difference of what was learned; an error at its end."""

    def main(grid: Any) -> None:
        for name in ("honest mean", "krum, sign flip", "probe gate, accumulative"):
            print(name, same(SETTINGS[name], grid))
        raise RecipeError("as it is")

    with pytest.raises(RecipeError, match="as it is"):
        simulate(main, simulated_clients_app(TinyNet), nodes=PER_ROUND, workers=2)
    assert not [thread for thread in threading.enumerate() if "server" in thread.name]


def test_ray_gives_the_same_rounds_and_errors_come_out_as_they_are() -> None:
    pytest.importorskip("ray", reason='needs the extra: pip install "taster[flower]"')
    # In a process of its own, as Ray leaves files and children for the end of it. Another cluster, here one that does
    # not answer, is not joined.
    code = "from tests.integrations.flower.test_flower_engine import on_ray; on_ray()"
    root, env = Path(__file__).parents[3], {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=root, env=env
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert len(result.stdout.splitlines()) == 3


RECIPE = """
name = "tiny"
seeds = [0]
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
[schedule]
steps = 2
[federated]
clients = 8
clients_per_round = 5
samples = 3
malicious_fraction = 0.25
[compute]
threads = 1
[[attack]]
name = "none"
[[attack]]
name = "sign_flip"
scale = 5.0
[[attack]]
name = "accumulative_updates"
validation_size = 40
[[defence]]
name = "none"
[[defence]]
name = "krum"
num_byzantine = 1
[[defence]]
name = "probe_gate"
"""


@pytest.fixture
def federated(tmp_path: Path) -> Path:
    path = tmp_path / "federated.toml"
    path.write_text(RECIPE)
    return path


def alike(ours: Any, theirs: Any) -> None:
    """The same, but for seconds and rounding."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"seconds", "reason"}:  # reasons have numbers in words
            alike(ours[key], theirs[key])
    elif isinstance(ours, list):
        for one, other in zip(ours, theirs, strict=True):
            alike(one, other)
    else:
        assert ours == (pytest.approx(theirs, rel=1e-4, abs=1e-6) if isinstance(theirs, float) else theirs)


def test_a_recipe_on_flower_leaves_the_rows_and_steps_of_one_run_here(federated: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason='needs the extra: pip install "taster[flower]"')
    recipe = read_recipe(str(federated))
    here = run_recipe(recipe, tmp_path / "local", jobs=1)
    command = [
        sys.executable,
        "-m",
        "taster",
        "run",
        str(federated),
        "--engine",
        "flower",
        "--jobs",
        "2",
        "--json",
        "-q",
    ]
    result = subprocess.run([*command, "--out", str(tmp_path / "flower")], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    rows = json.loads(result.stdout)["rows"]
    assert len(rows) == len(here) == 9
    alike(rows, here)
    texts = [(tmp_path / run / "steps.jsonl").read_text() for run in ("flower", "local")]
    alike(*([json.loads(line) for line in text.splitlines()] for text in texts))
    environment = RunDirectory(tmp_path / "flower").environment()
    assert environment["engine"] == "flower"
    assert environment["packages"]["flwr"]
    assert environment["packages"]["ray"]
    # It stays on its engine: by itself, and not on another.
    assert run_recipe(recipe, tmp_path / "flower", resume=True, jobs=1) == rows
    with pytest.raises(RunDirectoryError, match="is on the engine 'flower', got 'local'"):
        run_recipe(recipe, tmp_path / "flower", resume=True, engine="local")


def test_ctrl_c_ends_flower_too(federated: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason='needs the extra: pip install "taster[flower]"')
    command = [sys.executable, "-m", "taster", "run", str(federated), "--engine", "flower", "--jobs", "2", "-q"]
    more = ["--set", "schedule.steps=500", "--out", str(tmp_path / "run")]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell in the background may have it ignored
    process = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    while not any(path.read_text() for path in tmp_path.glob("run/cells/*/steps.jsonl")):
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume" in message
    assert "Traceback" not in message


def test_a_run_here_does_not_go_on_elsewhere(federated: Path, tmp_path: Path) -> None:
    recipe = read_recipe(str(federated), ["schedule.steps=1"])
    run_recipe(recipe, tmp_path / "run", jobs=1)
    assert RunDirectory(tmp_path / "run").environment()["engine"] == "local"
    with pytest.raises(RunDirectoryError, match="go on with --engine local"):
        run_recipe(recipe, tmp_path / "run", resume=True, engine="flower")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quickstart", "--engine", "flower"], "with a recipe of one stream, wanted one with [federated]"),
        (["federated-field-small", "--engine", "spark"], "engine: got 'spark', wanted one of local, ray, flower"),
    ],
)
def test_what_flower_cannot_run_is_told_in_a_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "taster", "run", *arguments, "--out", str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_public_names_are_there() -> None:
    assert all(hasattr(taster.integrations.flower, name) for name in taster.integrations.flower.__all__)
