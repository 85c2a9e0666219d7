"""Runs on a Ray cluster of several nodes in this machine, one of them lost: the same bits as a local run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Rows, files_without_times, run_recipe, without_times
from tests.experiments.conftest import Stop

from taster.errors import RecipeError, WorkerError
from taster.experiments import Recipe, read_recipe
from taster.experiments.running.progress import NoProgress

ray = pytest.importorskip("ray", reason='needs the extra: pip install "taster[ray]"')
pytestmark = [pytest.mark.thorough, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs, which runs nothing, and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2] / "src"), *_python_path()]))
    small = {"object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    made.lost = [made.add_node(num_cpus=1, **small) for _ in range(2)]
    yield made
    ray.shutdown()
    made.shutdown()


def _python_path() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def run_on(cluster: Any, recipe: Recipe, out: Path, **options: Any) -> Rows:
    return run_recipe(recipe, out, engine="ray", ray_address=cluster.address, **{"jobs": 4, **options})


def burn_ins(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "burn_in").iterdir()}


class LosesANode(NoProgress):
    """Has a node end, with everything on it, after so many steps of the cells."""

    def __init__(self, cluster: Any, after: int) -> None:
        self.left = after
        self._cluster = cluster

    def step(self, stage: str, steps: int, title: str) -> None:
        if stage == "burn-in":
            return
        self.left -= steps
        if self.left <= 0 and self._cluster.lost:
            self._cluster.remove_node(self._cluster.lost.pop(), allow_graceful=False)
            self._cluster.lost.clear()


def test_a_run_that_loses_a_node_leaves_the_same_bits(
    cluster: Any, reference: tuple[Path, Rows], tiny_recipe: Path, tmp_path: Path
) -> None:
    losing = LosesANode(cluster, after=1)
    rows = run_on(cluster, read_recipe(str(tiny_recipe)), tmp_path / "run", progress=losing)
    assert not cluster.lost  # the node was lost before the end
    assert losing.left <= 0
    assert without_times(rows) == without_times(reference[1])
    assert files_without_times(tmp_path / "run") == files_without_times(reference[0])
    assert burn_ins(tmp_path / "run") == burn_ins(reference[0])


def test_a_stopped_run_goes_on_here_and_there(
    cluster: Any, reference: tuple[Path, Rows], tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(str(tiny_recipe))
    with pytest.raises(KeyboardInterrupt):
        run_on(cluster, recipe, tmp_path / "run", progress=Stop(42))
    assert not ray.is_initialized()
    rows = run_recipe(recipe, tmp_path / "run", resume=True, engine="local")
    assert without_times(rows) == without_times(reference[1])
    assert burn_ins(tmp_path / "run") == burn_ins(reference[0])


OWN = """
from own_helper import WIDTH
from torch import nn

def model(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes))

def fails_on_nodes(generator):
    import os
    from taster.attacks import random_noise
    if os.getpid() != %d:
        raise ZeroDivisionError("only there")
    return random_noise(generator)
"""


def test_modules_of_the_users_own_are_taken_along_and_their_errors_come_back(
    cluster: Any,
    recipe_with: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own_code.py").write_text(OWN % os.getpid())
    (folder / "own_helper.py").write_text("WIDTH = 12\n")
    monkeypatch.chdir(folder)
    model = ('name = "mlp"\nhidden = [16]', 'name = "own_code:model"')
    recipe = read_recipe(str(recipe_with(model)), ["seeds=[0]"])
    rows = run_on(cluster, recipe, tmp_path / "run")
    assert without_times(rows) == without_times(run_recipe(recipe, tmp_path / "local"))
    broken = recipe_with(model, ('[[attack]]\nname = "none"', '[[attack]]\nname = "own_code:fails_on_nodes"'))
    with pytest.raises(RecipeError, match=r"own_code:fails_on_nodes raised ZeroDivisionError: only there"):
        run_on(cluster, read_recipe(str(broken), ["seeds=[0]"]), tmp_path / "broken")


def test_a_cluster_that_does_not_fit_is_refused(
    cluster: Any, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = read_recipe(str(tiny_recipe), ["compute.threads=3"])
    with pytest.raises(WorkerError, match=r"3 nodes, none of which has 3 CPUs"):
        run_on(cluster, wide, tmp_path / "wide")
    monkeypatch.setattr("torch.__version__", "1.0")
    with pytest.raises(WorkerError, match=r"torch .* \(wanted 1.0\).*install the same on every machine"):
        run_on(cluster, read_recipe(str(tiny_recipe)), tmp_path / "other")
