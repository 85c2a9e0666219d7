"""The benchmark of a GPU, as far as a CPU can try it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

CPU = torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with its neighbours to be found as when it is run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("gpu")


def test_what_it_finds_correct_is(gpu: ModuleType) -> None:
    assert gpu.refused_step_leaves_no_trace("lenet", CPU)
    assert gpu.resumed_learner_has_the_same_bits("lenet", CPU, steps=4)
    rows = gpu.agreement("lenet", CPU, gpu.WAYS[:1])
    assert len(rows) == 6
    assert all(row["signs right"] > 0.95 for row in rows)


def test_what_has_changed_is_not_the_same(gpu: ModuleType) -> None:
    one = {"a": torch.zeros(2), "b": [1, (torch.ones(1), None)]}
    assert gpu._same(one, {"a": torch.zeros(2), "b": [1, (torch.ones(1), None)]})
    assert not gpu._same(one, {"a": torch.zeros(2), "b": [1, (torch.zeros(1), None)]})
    assert not gpu._same(one, {"a": torch.zeros(2)})


def test_an_epoch_is_timed(gpu: ModuleType) -> None:
    found = gpu.training("lenet", 100, CPU)
    assert found["images a second"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which would be measured for minutes")
def test_without_a_gpu_it_says_what_it_would_do(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 0
    said = capsys.readouterr().out
    assert "No GPU is here" in said
    assert "launches" in said
