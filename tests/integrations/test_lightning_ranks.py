"""The guard around Lightning's loop in two processes: one verdict, and the same bits in both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.zoo import same

pytest.importorskip("lightning.pytorch", reason="needs the extra: pip install taster[lightning]")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks")
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "tests.integrations.lightning_ranks", str(out)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def read(runs: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both processes of a guarded run ended with: the same, buffers included."""
    first, second = (torch.load(runs / f"{name}.{rank}", weights_only=False) for rank in (0, 1))
    assert same(first["state"], second["state"])
    assert [kept for kept, _, _ in first["told"]] == [kept for kept, _, _ in second["told"]]
    return first, second


def plain(runs: Path, name: str) -> Any:
    """What a run without a guard, and without what is refused, ended with: the first process's buffers count."""
    return torch.load(runs / f"{name}.0", weights_only=False)["state"]


@pytest.mark.parametrize(
    ("name", "without", "reason"),
    [
        ("gate", "plain", "too bright"),
        ("screen", "plain", "in process 1: too bright"),
        ("gate_gan", "plain_gan", "too bright"),
    ],
)
def test_what_reaches_one_process_alone_is_refused_in_both(runs: Path, name: str, without: str, reason: str) -> None:
    found, other = read(runs, name)
    assert [kept for kept, _, _ in found["told"]] == [True, True, False, False, True, True]
    assert found["told"][2][1] == reason
    assert reason.endswith(other["told"][2][1])
    assert same(found["state"], plain(runs, without))


def test_a_window_of_accumulated_batches_is_refused_in_both(runs: Path) -> None:
    found, _ = read(runs, "screen2")
    assert [(kept, samples) for kept, _, samples in found["told"]] == [(True, 8), (False, 8), (True, 8)]
    assert same(found["state"], plain(runs, "plain2"))


def test_a_probe_is_shared_by_both(runs: Path) -> None:
    found, _ = read(runs, "probe")
    assert [told[0] for told in found["told"]] == [True] * 6
