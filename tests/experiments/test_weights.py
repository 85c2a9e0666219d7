"""Weights from files into models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from taster.core.checkpoint import save_state
from taster.errors import CheckpointError
from taster.experiments.scenarios.weights import load_weights, read_weights


def saved(path: Path, model: nn.Module, how: str) -> Path:
    state = model.state_dict()
    if how == "safetensors":
        save_file(state, path)
    elif how == "taster":
        save_state(path, {"model": state, "steps": 3})
    elif how == "checkpoint":
        torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "zip")
    return path


@pytest.mark.parametrize("how", ["safetensors", "taster", "checkpoint", "zip", "legacy"])
def test_a_state_dict_is_read_whatever_the_file_is_called(tmp_path: Path, how: str) -> None:
    torch.manual_seed(0)
    trained, model = nn.Linear(3, 2), nn.Linear(3, 2)
    load_weights(model, str(saved(tmp_path / "weights", trained, how)))
    assert torch.equal(model.weight, trained.weight)
    assert torch.equal(model.bias, trained.bias)


def test_what_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match="would run code"):
        read_weights(tmp_path / "whole.pt")


def test_files_that_hold_no_state_dict_are_told(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    whole = saved(tmp_path / "whole.pt", nn.Linear(3, 2), "zip").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("weights")
    for name, message in [
        ("epoch.pt", "got a dictionary of epoch, wanted a state dict"),
        ("tensor.pt", "got a Tensor, wanted a state dict"),
        ("cut.pt", "not a whole file of torch.save"),
        ("text.pt", "not a whole safetensors file"),
        ("none.pt", "no such file"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            read_weights(tmp_path / name)


def test_the_keys_that_do_not_fit_are_named_and_not_all_of_many(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", nn.Linear(3, 2), "zip")
    with pytest.raises(CheckpointError, match=r"weight: got \[2, 3\], wanted \[2, 4\]"):
        load_weights(nn.Linear(4, 2), str(path))
    with pytest.raises(CheckpointError, match=r"0\.weight: missing in the file(?s:.*)and 30 more"):
        load_weights(nn.Sequential(*[nn.Linear(3, 2) for _ in range(20)]), str(path))
