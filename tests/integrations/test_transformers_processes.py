"""A Trainer in two processes, under DistributedDataParallel."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

pytest.importorskip("transformers", reason="needs the extra: pip install taster[transformers]")

SCRIPT = Path(__file__).parent / "trainer_process.py"


def run(*arguments: str) -> list[dict[str, Any]]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    told = [[line for line in text.splitlines() if line.startswith("TOLD ")] for text in printed]
    assert all(len(lines) == 1 for lines in told), printed
    return [json.loads(lines[0].removeprefix("TOLD ")) for lines in told]


@pytest.mark.thorough
@pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_agree_and_resume(tmp_path: Path) -> None:
    first, second = run(str(tmp_path))
    assert first["sums"] == second["sums"]
    assert first["verdicts"] == second["verdicts"]
    assert first["verdicts"][1] == ["REJECT", "by 1"]
    assert first["sums"][0] == first["sums"][1]
    assert first["sums"][1] != first["sums"][2]
    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(first["logged"], rel=1e-5)
    for resumed in run(str(tmp_path), str(tmp_path / "checkpoint-2")):
        assert resumed["sums"] == first["sums"][2:]
        assert resumed["steps"] == 4
