"""The examples run as they are, and the guard in each refuses what was poisoned and lets go on what was not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def output_of(name: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    found = re.search(pattern, text)
    assert found is not None, text
    return [float(number) for number in re.findall(r"[\d.]+", found[1])]


def assert_refused_in(poisoned: range, refused: list[float]) -> None:
    inside = [step for step in refused if step in poisoned]
    assert len(inside) >= 2, refused  # of small steps several pass until they add up, and are undone together
    assert len(refused) - len(inside) <= 4, refused  # what a poisoned momentum takes with it


def test_the_trainer_of_transformers() -> None:
    pytest.importorskip("transformers", reason="needs the extra: pip install taster[transformers]")
    told = output_of("transformers_trainer")
    assert_refused_in(range(20, 40), numbers(r"refused updates: \[(.*)\]", told))
    assert numbers(r"accuracy on the probe: ([\d.]+)%", told)[0] > 90


def test_a_loop_with_accelerate() -> None:
    pytest.importorskip("accelerate", reason="needs the extra: pip install taster[transformers]")
    told = output_of("accelerate_loop")
    assert_refused_in(range(31, 63), numbers(r"refused batches: \[(.*)\]", told))
    assert numbers(r"accuracy on the probe: ([\d.]+)%", told)[0] > 90


def test_an_adapter() -> None:
    pytest.importorskip("peft", reason="needs the extra: pip install taster[transformers]")
    told = output_of("lora")
    assert_refused_in(range(20, 40), numbers(r"refused updates: \[(.*)\]", told))
    assert numbers(r"loss on the probe: ([\d.]+)", told)[0] < 0.2
    (frozen,) = numbers(r"frozen weights: (\d+) kB", told)
    assert numbers(r"go back to: (\d+) kB", told)[0] < frozen / 20
    assert numbers(r"snapshots: (\d+) kB", told)[0] < frozen / 5


def test_metrics_for_prometheus() -> None:
    told = output_of("prometheus_metrics")
    (committed,) = numbers(r'outcome="committed"} (\d+)', told)
    (rejected,) = numbers(r'outcome="rejected"} (\d+)', told)
    (rewound,) = numbers(r'outcome="rewound"} (\d+)', told)
    assert committed + rejected + rewound == 80
    assert numbers(r"taster_samples_total (\d+)\n", told) == [80 * 32]
    alarms = numbers(r"alarm at steps: \[(.*)\]", told)
    assert 30 <= alarms[0] < 50
    for name in ("taster_updates_total", "rejected", "rewound", "committed"):
        assert name in (EXAMPLES / "prometheus_alerts.yml").read_text()
        assert name in told
