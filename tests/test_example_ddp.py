"""The example of two processes runs as its first lines say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo")
def test_one_verdict_holds_for_both_processes() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "logged.py"), str(ROOT / "examples" / "ddp.py")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "the same weights in both: True" in done.stdout
    accuracy = re.search(r"accuracy ([\d.]+)", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 95
    refused = [int(step) for step in re.findall(r"step (\d+): rejected by probe_gate", done.stderr)]
    assert len(set(refused) & set(range(20, 28))) >= 6
    assert len(refused) == len(set(refused))  # one process speaks for both
