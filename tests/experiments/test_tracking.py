"""Finished cells in a tracking library: settings, steps and rows, each once."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Rows, run_command

from taster.errors import ExtraError, RecipeError, TrackingError
from taster.experiments import RunDirectory
from taster.experiments.tracking import check_store, check_tracking, track_run

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of MLflow's about its own stores
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def run(reference: tuple[Path, Rows], tmp_path: Path) -> RunDirectory:
    shutil.copytree(reference[0], tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return read


def test_tensorboard_has_every_cell_once(run: RunDirectory, reference: tuple[Path, Rows]) -> None:
    pytest.importorskip("tensorboard", reason='needs the extra: pip install "taster[tracking]"')
    assert track_run(run, "tensorboard") == 8
    assert track_run(run, "tensorboard") == 0
    folders = sorted((run.path / "tensorboard").iterdir())
    assert len(folders) == 8
    rows = {(row["attack"], row["defence"], row["seed"]): row for row in reference[1]}
    for cell, folder in zip(sorted((run.path / "cells").iterdir()), folders, strict=True):
        row = json.loads((cell / "cell.json").read_text())["row"]
        steps = [json.loads(line) for line in (cell / "steps.jsonl").read_text().splitlines()]
        read = events(folder)
        (after,) = read.Scalars("row/acc_after")
        assert after.value == pytest.approx(rows[row["attack"], row["defence"], row["seed"]]["acc_after"])
        assert after.step == len(steps)
        assert [s.value for s in read.Scalars("steps/loss")] == pytest.approx([line["loss"] for line in steps])
        text = read.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
        settings = json.loads(text.removeprefix("```json").removesuffix("```"))
        assert settings["seed"] == str(row["seed"])
        assert settings["attack.name"] == row["attack"]
        assert settings["defence.name"] == row["defence"]
        assert "seeds.0" not in settings


def test_a_cell_that_was_half_handed_over_is_handed_over_again(run: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason='needs the extra: pip install "taster[tracking]"')
    assert track_run(run, "tensorboard", str(tmp_path / "logs")) == 8
    (lost, *_) = sorted((tmp_path / "logs" / "run").iterdir())
    lost.rename(lost.with_name(f".{lost.name}.part"))
    assert track_run(run, "tensorboard", str(tmp_path / "logs")) == 1
    assert lost.is_dir()
    assert len(list(lost.iterdir())) == 1


def test_mlflow_has_every_cell_once(
    run: RunDirectory, reference: tuple[Path, Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason='needs the extra: pip install "taster[tracking]"')
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    assert track_run(run, "mlflow", uri) == 8
    assert track_run(run, "mlflow", uri) == 0
    client = mlflow.MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert len(found) == 8
    rows = {(row["attack"], row["defence"], str(row["seed"])): row for row in reference[1]}
    for one in found:
        params = one.data.params
        row = rows.pop((params["attack.name"], params["defence.name"], params["seed"]))
        assert one.data.metrics["row/acc_after"] == pytest.approx(row["acc_after"])
        assert len(client.get_metric_history(one.info.run_id, "steps/loss")) == row["steps"] + 1  # and the trigger
        assert one.info.status == "FINISHED"
    assert not rows


@pytest.mark.parametrize("uri", ["nothing://here", "mysql+nothing://here/x", "http://127.0.0.1:9"])
def test_a_store_that_cannot_be_used_is_told(
    uri: str, run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason='needs the extra: pip install "taster[tracking]"')
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for use in (lambda: check_store("mlflow", uri), lambda: track_run(run, "mlflow", uri)):
        with pytest.raises(TrackingError, match=rf"(?s)MLflow at {re.escape(uri)}: .*wanted the address of a server"):
            use()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("file", "file is no folder; name another one"),
        ("file/deep", "file is no folder; name another one"),
        ("x" * 300, "cannot be written: File name too long"),
        ("a\0b", "a folder with a NUL in its name"),
        (os.fsdecode(b"\xff"), "a folder whose name is no Unicode"),
    ],
)
def test_a_folder_that_cannot_be_written_is_told(name: str, wanted: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match=wanted):
        check_store("tensorboard", f"{tmp_path}/{name}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_can_be_made_is_not_made_yet(tmp_path: Path) -> None:
    check_store("tensorboard", str(tmp_path / "new" / "deep"))
    check_store("tensorboard", str(tmp_path))
    check_store("tensorboard", "relative")
    assert not any(tmp_path.iterdir())


def test_a_log_in_a_folder_that_cannot_be_written_is_told(run: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason='needs the extra: pip install "taster[tracking]"')
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="is no folder"):
        track_run(run, "tensorboard", str(tmp_path / "file"))


def test_a_store_is_tried_before_the_run(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taster.experiments.tracking.require", lambda *_: None)
    (tmp_path / "file").write_text("")
    out = tmp_path / "out"
    told = run_command("run", tiny_recipe, "--out", out, "--track", "tensorboard", "--track-to", tmp_path / "file")
    assert told.returncode == 2
    assert "is no folder; name another one" in told.stderr
    assert not out.exists()


def test_what_is_not_known_or_not_installed_is_told_first(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match="track: got 'wandb', wanted one of mlflow, tensorboard"):
        check_tracking("wandb")
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ExtraError, match=r"TensorBoard is not installed.*taster\[tracking\]"):
            check_tracking("tensorboard")
    alone = run_command("run", tiny_recipe, "--out", tmp_path / "out", "--track-to", "here")
    assert alone.returncode == 2
    assert "without --track" in alone.stderr
    assert not (tmp_path / "out").exists()
