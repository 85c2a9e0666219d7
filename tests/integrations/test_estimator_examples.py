"""The examples of guarded estimators run, and say what they are there to show."""

from __future__ import annotations

import logging
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    before = logging.root.manager.disable
    yield
    logging.disable(before)


def accuracies(said: str) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in re.findall(r"guarded:? (0\.\d+), unguarded:? (0\.\d+)", said)]


def test_the_guides_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("river", reason="needs the extra: pip install taster[river]")
    x, y = load_digits(return_X_y=True)
    pairs = [({"a": float(row[20]), "b": float(row[36])}, bool(label > 4)) for row, label in zip(x, y, strict=True)]
    names: dict[str, Any] = {
        "X": x[:500] / 16,
        "y": y[:500],
        "X_trusted": x[500:1000] / 16,
        "y_trusted": y[500:1000],
        "batches": [(x[1000:1100] / 16, y[1000:1100]), (x[1100:1600] / 16, (y[1100:1600] + 1) % 10)],
        "trusted_pairs": pairs[:300],
        "stream": pairs[300:600],
    }
    classification, streaming = re.findall(r"```python\n(.*?)```", (ROOT / "docs/estimators.md").read_text(), re.DOTALL)
    np.random.seed(0)  # the guide's estimator draws by it
    exec(classification, names)
    assert "would fall by" in capsys.readouterr().out
    assert names["model"].counters == {**names["model"].counters, "committed": 1, "rejected": 1}
    exec(streaming, names)
    assert names["model"].counters["steps"] == 3


@pytest.mark.parametrize("name", ["sklearn_partial_fit", "river_stream"])
def test_an_example_holds_its_accuracy(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name.startswith("river"):
        pytest.importorskip("river", reason="needs the extra: pip install taster[river]")
    path = ROOT / "examples" / f"{name}.py"
    assert 20 <= len(path.read_text().splitlines()) <= 60
    runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    before, during, after = accuracies(said)
    assert abs(before[0] - before[1]) < 0.1
    assert during[0] > during[1] + 0.3
    assert during[0] > before[0] - 0.05
    assert after[0] > after[1]
    assert "probe would fall by" in said
    assert "'rejected'" in said
