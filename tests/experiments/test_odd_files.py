"""Files of any shape in a run directory are one sentence at every reader."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tests.conftest import Rows, run_command

from taster import save_state
from taster.errors import TasterError
from taster.experiments import RunDirectory

OBJECT = '{"rows": {}}'
JSON = ["", "[]", "3", '"x"', "null", "{", "[" * 99_999, '{"a":' * 99_999, "9" * 9_999, OBJECT, "\0", "é\udcff", "NaN"]


@pytest.fixture
def run(reference: tuple[Path, Rows], tmp_path: Path) -> Path:
    """A finished run to damage."""
    return Path(shutil.copytree(reference[0], tmp_path / "run"))


@pytest.mark.parametrize(
    "name", ["results.json", "environment.json", "cells/{cell}/cell.json", "cells/{cell}/steps.jsonl"]
)
def test_json_of_any_shape_is_told(name: str, run: Path) -> None:
    path = run / name.format(cell=next((run / "cells").iterdir()).name)
    whole = path.read_text()
    other = [whole.replace('"seed"', '"sied"'), whole.replace("0", '"a"')]
    contents = {
        "steps.jsonl": [*JSON[1:], *other, whole.replace('"defence": "', '"defence": "not ')],
        "cell.json": [*JSON, *other, whole.replace('"defence": "', '"defence": "not ')],
        "results.json": [*JSON, *other],
        "environment.json": [text for text in JSON if text != OBJECT],
    }
    for content in contents[path.name]:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
        result = run_command("compare" if path.name == "results.json" else "report", run)
        assert result.returncode == 2, (content[:30], result)
        assert path.name in result.stderr


@pytest.mark.parametrize("name", ["images.safetensors", "scores.safetensors", "recipe.toml"])
def test_binary_files_of_any_shape_are_told(name: str, run: Path, tmp_path: Path) -> None:
    target = run / name if name == "recipe.toml" else next((run / "cells").iterdir()) / name
    for odd in odd_states(tmp_path):
        shutil.copyfile(odd, target)
        with pytest.raises(TasterError):
            read_everything(run)


def test_a_missing_file_is_told(run: Path) -> None:
    next((run / "cells").glob("*/steps.jsonl")).unlink()
    with pytest.raises(TasterError, match=r"steps\.jsonl cannot be read: No such file"):
        read_everything(run)


def read_everything(run: Path) -> None:
    found = RunDirectory(run)
    for finished in found.finished(found.recipe()):
        finished["cell"].images()
        finished["cell"].scores()


def odd_states(folder: Path) -> list[Path]:
    """Files that are no states, or states of another shape."""
    tensor = torch.ones(2)
    states: list[object] = [[], 3, {"a": 3}, {"a": [tensor]}, {3: tensor}, {"a": {"b": {"c": {"d": tensor}}}}]
    files = [folder / f"state-{i}" for i in range(len(states))]
    for file, state in zip(files, states, strict=True):
        save_state(file, state)
    (folder / "nothing").write_bytes(b"")
    (folder / "noise").write_bytes(bytes(range(256)) * 4)
    return [*files, folder / "nothing", folder / "noise"]
