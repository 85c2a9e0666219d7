"""Nested state in one file: whole or not there, and never unpickled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from taster import load_state, save_state
from taster.core.checkpoint import move_to_device
from taster.errors import CheckpointError


def test_nested_state_comes_back_as_it_was(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    state = {
        "a": shared,
        "again": shared,
        3: [torch.ones(2, dtype=torch.int64), None, True, 1.5, "text", float("inf")],
        "betas": (0.9, 0.999),
        "empty": {},
        "view": torch.arange(6).reshape(2, 3).t(),
    }
    save_state(tmp_path / "s", state)
    back = load_state(tmp_path / "s")
    assert list(back) == list(state)
    assert torch.equal(back["a"], shared)
    assert torch.equal(back["view"], state["view"])
    assert back[3][1:] == state[3][1:]
    assert back["betas"] == (0.9, 0.999)
    assert back["empty"] == {}


def test_a_file_of_another_program_is_a_flat_dict(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors")
    assert torch.equal(load_state(tmp_path / "x.safetensors")["w"], torch.ones(2))


def test_damaged_and_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_state(tmp_path / "nothing")
    save_state(tmp_path / "s", {"a": torch.ones(1000)})
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_state(tmp_path / "s")


def test_what_cannot_be_saved_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot save a set"):
        save_state(tmp_path / "s", {"a": {1, 2}})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path / "s", {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_state(tmp_path / "s", {"a": 2})
    assert load_state(tmp_path / "s") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_state_is_placed_where_the_model_is_but_for_what_generators_keep() -> None:
    state = {"a": [torch.ones(2), (torch.ones(1, dtype=torch.bool), None)], "draws": torch.Generator().get_state()}
    moved = move_to_device(state, torch.device("meta"))
    assert moved["a"][0].is_meta
    assert moved["a"][1][0].is_meta
    assert moved["a"][1][1] is None
    assert not moved["draws"].is_meta


@pytest.mark.parametrize(
    "structure",
    ["{", "[]", "{}", '{"a": 1, "b": 2}', '{"tensor": "9"}', '{"dict": [[1]]}', '{"set": []}', "[" * 100_000],
)
def test_a_structure_of_another_form_is_told(structure: str, tmp_path: Path) -> None:
    save_file({"0": torch.ones(2)}, tmp_path / "s", metadata={"taster.structure": structure})
    if structure == "[]":  # a plain value is a state
        assert load_state(tmp_path / "s") == []
        return
    with pytest.raises(CheckpointError, match="its structure cannot be read"):
        load_state(tmp_path / "s")


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 50, b"\x00" * 64, (2**62).to_bytes(8, "little") + b"{}"])
def test_bytes_of_any_kind_are_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_state(tmp_path / "s")
    for path in (tmp_path, "a\x00b"):
        with pytest.raises(CheckpointError):
            load_state(path)
