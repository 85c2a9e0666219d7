"""The command: what it prints, and that a user's mistake is one message and exit code 2."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

import taster
from tests.conftest import Rows, run_command


@pytest.fixture
def done(reference: tuple[Path, Rows], tmp_path: Path) -> Path:
    """A finished run to write in."""
    return Path(shutil.copytree(reference[0], tmp_path / "done"))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_prints_its_table_and_leaves_its_page(tiny_recipe: Path, tmp_path: Path) -> None:
    result = run_command("run", tiny_recipe, "--seeds", "1", "--set", "schedule.steps=1", "--jobs", "1")
    assert result.returncode == 0, result.stderr
    assert "accumulative" in result.stdout
    assert "report.html" in result.stderr
    run = tmp_path / "runs" / "tiny"
    assert (run / "report.html").is_file()
    rows = json.loads((run / "results.json").read_text())["rows"]
    assert {(r["seed"], r["steps"]) for r in rows} == {(0, 1)}
    again = run_command("run", tiny_recipe, "--seeds", "1", "--json", "--quiet", "--jobs", "1")
    assert (tmp_path / "runs" / "tiny-2").is_dir()
    assert again.stderr == ""
    assert json.loads(again.stdout)["recipe"] == "tiny"
    resumed = run_command("run", tiny_recipe, "--seeds", "1", "--resume", "--json", "--quiet")
    assert json.loads(resumed.stdout) == json.loads(again.stdout)
    by_directory = run_command("run", "--resume", "--out", run, "--json", "--quiet")
    assert json.loads(by_directory.stdout)["rows"] == rows


def test_reports_and_comparisons(done: Path) -> None:
    result = run_command("report", done, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["recipe"] == "tiny"
    assert "accumulative" in result.stderr
    (done / "report.html").unlink()
    assert run_command("report", done, "--quiet").stdout == ""
    assert (done / "report.html").is_file()
    table = run_command("compare", done, done)
    assert table.returncode == 0, table.stderr
    assert "difference" in table.stdout
    lines = json.loads(run_command("compare", done, done, "--json").stdout)
    assert all(line["runs"][1]["difference"] == 0 for line in lines)


@pytest.mark.parametrize("runs", [2, 4])
def test_a_comparison_has_its_runs_names_whole_on_a_narrow_console(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    names = [f"digits-with-a-long-name-{i}" for i in range(runs)]
    for name in names:
        (tmp_path / name).symlink_to(done, target_is_directory=True)
    monkeypatch.setenv("COLUMNS", "80")
    table = run_command("compare", *names)
    assert table.returncode == 0, table.stderr
    assert "…" not in table.stdout
    lines = table.stdout.split("\n")
    if runs == 2:
        assert max(map(len, lines)) <= 80
    head = lines[: next(i for i, line in enumerate(lines) if "─" in line)]
    assert sum(line.count("digits-with-a-") for line in head) == runs
    assert all(any(f"long-name-{i}" in line for line in head) for i in range(runs))
    assert head[-1].count("difference") == runs - 1


def test_lists_and_recipes() -> None:
    result = run_command("list")
    assert result.returncode == 0
    for name in ("vanilla_trigger", "probe_gate", "resnet18", "quickstart", "Pang et al. 2021"):
        assert name in result.stdout
    assert "attacks" in json.loads(run_command("list", "--json").stdout)
    import tomllib

    shown = run_command("show", "quickstart", "--set", "stream.batch_size=40").stdout
    assert tomllib.loads(shown)["stream"]["batch_size"] == 40
    assert run_command("--version").stdout.strip() == taster.__version__
    for command in ("run", "list", "show", "report", "compare", "results", "quarantine"):
        helped = run_command(command, "--help")
        assert helped.returncode == 0
        assert "\\" not in helped.stdout
    assert "[x>=1]" in run_command("run", "--help").stdout
    assert "RECIPE  [required]" in run_command("show", "--help").stdout


def test_the_module_is_the_command_and_answers_without_torch() -> None:
    run = partial(subprocess.run, capture_output=True, text=True, check=False)
    assert run([sys.executable, "-m", "taster", "--version"]).stdout.strip() == taster.__version__
    assert run([sys.executable, "-m", "taster", "nonsense"]).returncode == 2
    code = "import sys, taster.cli; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "wanted"), [(["runn"], "run"), (["comapre"], "compare"), (["list", "--threats"], "--threat")]
)
def test_a_misspelt_name_is_answered_once(arguments: list[str], wanted: str) -> None:
    result = run_command(*arguments)
    assert result.returncode == 2
    assert result.stderr.count("Did you mean") == 1
    assert result.stderr.count(f"'{wanted}'") == 1


def mistakes(folder: Path) -> list[tuple[list[str | Path], str]]:
    (folder / "file").write_text("x")
    (folder / "thesis").mkdir()
    (folder / "thesis" / "text").write_text("x")
    (folder / "broken.toml").write_text("= 1")
    (folder / "odd").mkdir()
    (folder / "odd" / "results.json").write_text("{}")
    return [
        (["run", "nothing"], "no such recipe"),
        (["run", folder / "broken.toml"], "not TOML"),
        (["run", "--set", "burn_in.epochs=0"], "wanted epochs to train"),
        (["run", "--set", "model.name=mpl"], "wanted one of mlp"),
        (["run", "--set", "data.source=./nowhere"], "data.source: './nowhere': no such file or folder"),
        (["run", "--set", "split.probe=9999"], "split.probe = 9999"),
        (
            ["run", "--set", "attack.accumulative.poison_fraction=2"],
            "poison_fraction: got 2, wanted less than or equal to 1",
        ),
        (["run", "--out", folder / "file" / "x"], "cannot be"),
        (["run", "--out", folder / "thesis"], "not empty"),
        (["run", "--out", "/proc/nowhere"], "cannot be written"),
        (["run", "--seeds", "0"], "--seeds"),
        (["run", "--set", "model.name=no_module:f"], "cannot be imported"),
        (["run", "--set", "compute.device=tpu"], "compute.device"),
        (["run", "--set", "compute.device=meta"], "compute.device"),
        (["run", "--resume", "--out", "x" * 5000], "cannot be"),
        (["compare", folder / "odd"], "results.json is not what taster run writes"),
        (["show", "nothing"], "no such recipe"),
        (["report", folder], "not a run directory"),
        (["compare", folder], "results.json cannot be read"),
        (["results"], "results: no such folder, wanted one with results"),
        (["results", folder / "thesis"], "no results in it, wanted folders with recipe.toml and environment.json"),
        (["results", "x" * 5000], "cannot be read: File name too long"),
        (["nonsense"], "nonsense"),
        (["run", "--nonsense"], "nonsense"),
    ]


def test_every_mistake_is_told_without_a_traceback(tmp_path: Path) -> None:
    for arguments, message in mistakes(tmp_path):
        result = run_command(*arguments)
        assert result.returncode == 2, (arguments, result.stderr)
        assert message in result.stderr, (arguments, result.stderr)
        assert "Traceback" not in result.stderr
        assert result.stdout == ""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "x, y = torch.rand(1797, 1, 8, 8), torch.arange(1797) % 10\n    x[3] = float('nan')",
            "row 3: got values from nan",
        ),
        ("x, y = torch.rand(1797, 1, 8, 8) * 255, torch.arange(1797) % 10", "wanted floating point in [0, 1]"),
        ("x, y = torch.randint(0, 255, (1797, 1, 8, 8)), torch.arange(1797) % 10", "wanted bytes"),
        ("x, y = torch.rand(1797, 1, 8, 8), torch.arange(1797) % 10 - 1", "row 0: got the label"),
        ("x, y = torch.rand(0, 1, 8, 8), torch.arange(0)", "no images"),
    ],
)
def test_bad_data_is_told(body: str, message: str, tmp_path: Path) -> None:
    (tmp_path / f"odd_{tmp_path.name}.py").write_text(
        f"import torch\ndef data():\n    {body}\n    return torch.utils.data.TensorDataset(x, y)\n"
    )
    result = run_command("run", "--set", f"data.source=odd_{tmp_path.name}:data")
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_truncated_parquet_file_and_a_set_without_labels_are_told(tmp_path: Path) -> None:
    from tests.data.test_load import write_parquet

    bare = write_parquet(tmp_path / "bare.parquet", label=None)
    whole = write_parquet(tmp_path / "whole.parquet")
    whole.write_bytes(whole.read_bytes()[:-100])
    for path, message in ((bare, "no label column"), (whole, "cannot be loaded")):
        result = run_command("run", "--set", f"data.source={path}")
        assert (result.returncode, "Traceback" in result.stderr) == (2, False), result.stderr
        assert message in " ".join(result.stderr.split())


def test_a_full_disk_while_recording_is_told_and_resumable(tiny_recipe: Path, tmp_path: Path) -> None:
    """A limit on the size of any file stands for a disk that fills up in the middle of a run."""
    resource = pytest.importorskip("resource")
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY));"
        "sys.argv[0] = 'taster'; from taster.cli import main; main()"
    )
    del resource
    command = ["run", str(tiny_recipe), "--out", str(tmp_path / "run"), "--jobs", "1"]
    result = subprocess.run(
        [sys.executable, "-c", limited, *command], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 2, result.stderr
    assert "File too large" in result.stderr
    assert "--resume" in result.stderr
    assert "Traceback" not in result.stderr
    assert run_command(*command, "--resume", "--quiet").returncode == 0
    assert len(json.loads((tmp_path / "run" / "results.json").read_text())["rows"]) == 8


def test_a_model_of_another_width_is_told(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / f"nets_{tmp_path.name}.py").write_text(
        "from torch import nn\ndef net(shape, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
    )
    path = recipe_with(('name = "mlp"\nhidden = [16]', f'name = "nets_{tmp_path.name}:net"'))
    result = run_command("run", path)
    assert result.returncode == 2
    assert "wanted [2, 10]: one number for each class" in result.stderr
    assert torch.get_num_threads() > 0


def test_ctrl_c_stops_and_tells_how_to_go_on(tiny_recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "taster", "run", str(tiny_recipe), "--out", str(tmp_path / "run"), "--jobs", "1"]
    command += ["--set", "burn_in.epochs=100000"]  # it does not end by itself
    # A shell that starts the tests in the background may have them ignore the signal, and so their children.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=heed)
    while not (tmp_path / "run" / "environment.json").exists():
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in message
    assert "Traceback" not in message
