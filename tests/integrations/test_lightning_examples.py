"""The examples for Lightning run, and the guard refuses the poison in them."""

from __future__ import annotations

import re
import runpy
import warnings
from pathlib import Path

import pytest

pytest.importorskip("lightning.pytorch", reason="needs the extra: pip install taster[lightning]")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("name", "poisoned"), [("lightning_loop", range(20, 30)), ("lightning_gan", range(20, 30))])
def test_an_example_refuses_its_poison(name: str, poisoned: range, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():  # Lightning's advice
        warnings.simplefilter("ignore")
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    refused = {int(step) for step in re.findall(r"^step (\d+): .", capsys.readouterr().out, re.MULTILINE)}
    assert len(refused & set(poisoned)) >= 3
    assert len(refused - set(poisoned)) <= 4
