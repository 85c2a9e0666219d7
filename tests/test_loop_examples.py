"""The examples of loops run: poisoned steps are refused, and honest ones learned."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from taster import Learner
from tests.conftest import TinyNet, tiny_batch

ROOT = Path(__file__).parent.parent


def run(name: str) -> tuple[str, list[int]]:
    """What an example prints last, and the steps that were refused as a whole."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::UserWarning",
            str(ROOT / "tests" / "logged.py"),
            str(ROOT / "examples" / f"{name}.py"),
        ],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    refused = [int(step) for step in re.findall(r"step (\d+): (?:rejected|rewound|salvaged)", done.stderr)]
    return done.stdout.strip().splitlines()[-1], refused


@pytest.mark.parametrize(
    ("name", "poisoned", "refused_at_least", "others_at_most", "quality"),
    [
        ("language_model", range(20, 35), 10, 4, 98.0),
        ("segmentation", range(20, 30), 8, 6, 0.9),
        ("regression", range(30, 50), 16, 4, 0.4),
        ("click_through", range(30, 50), 6, 6, 95.0),
        ("mixed_precision", range(20, 35), 12, 4, 87.0),
    ],
)
def test_a_poisoned_stretch_is_refused(
    name: str, poisoned: range, refused_at_least: int, others_at_most: int, quality: float
) -> None:
    said, refused = run(name)
    assert len(set(refused) & set(poisoned)) >= refused_at_least
    assert len(set(refused) - set(poisoned)) <= others_at_most
    reached = re.search(r"(\d+\.\d+)", said)
    assert reached is not None
    assert float(reached[1]) >= quality


def test_a_gan_stays_near_its_circle() -> None:
    said, refused = run("two_optimizers")
    distance = re.search(r"circle (\d+\.\d+)", said)
    assert distance is not None
    assert float(distance[1]) < 0.3  # unguarded it ends 6 away
    assert len(set(refused) & set(range(40, 90))) >= 5


def test_a_head_grows_under_a_guard() -> None:
    said, refused = run("growing_head")
    assert "'steps': 500" in said
    assert len(set(refused) & set(range(260, 275))) >= 12


def test_avalanches_plugin() -> None:
    pytest.importorskip("avalanche", reason="needs pip install avalanche-lib")
    said, refused = run("avalanche_plugin")
    assert "'steps'" in said
    assert refused


def test_the_code_of_the_page_on_loops_runs() -> None:
    torch.manual_seed(0)
    model, batch = TinyNet(), tiny_batch(seed=1)
    names = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        "loss": torch.nn.functional.cross_entropy,
        "probe": tiny_batch(60, seed=9),
        "x": batch.x,
        "y": batch.y,
        "series": torch.zeros(7, 4, 2),
        "state": (torch.zeros(1, 4, 3), torch.zeros(1, 4, 3)),
        "labels": torch.zeros(4),
        "images": [torch.zeros(1, 2, 2), torch.zeros(1, 3, 3)],
        "boxes": [torch.zeros(0, 4), torch.zeros(5, 4)],
    }
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "loops.md").read_text(), re.DOTALL):
        exec(code, names)
    assert len(names["batch"]) == 4  # type: ignore[arg-type]
    assert len(names["pictures"]) == 2  # type: ignore[arg-type]
    assert names["step"].record is not None  # type: ignore[attr-defined]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    learner = Learner(model, optimizer, torch.nn.functional.cross_entropy, names["guard"])  # type: ignore[arg-type]
    assert learner.step(batch).samples == len(batch)
