"""Odd words on the command line and odd text in recipes are one sentence and exit code 2 each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import run_command


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seeds.a.b=1", "this list has no entries with keys"),
        ("seeds.0=1", "this list has no entries with keys"),
        (f"seeds={DIGITS}", "cannot be read"),
        ("seeds=0x" + "f" * 5000, "seeds: got an integer of 20000 bits"),
        (f"burn_in.learning_rate={DIGITS}.0", "burn_in.learning_rate: got inf"),
        ("seeds=1000000000000", "seeds: got 1000000000000, wanted"),
        ("compute.threads=1099511627776", "compute.threads: got 1099511627776, wanted less than or equal to 1024"),
        ("compute.device=cuda:99999999999999999999", "compute.device: got 'cuda:99999999999999999999'"),
        ("name=../outside", "name: got '../outside', wanted a name that a folder can have"),
        ("name=.", "name: got '.'"),
        ("name=" + "x" * 300, "wanted a name that a folder can have"),
        ("data.source=a\0b", "data.source: got text with a NUL in it"),
        ("a\0b=3", "got the key 'a\\x00b' with a NUL in it"),
        ("description=\udcff", "description: got text that is not Unicode"),
        ("description=" + "[" * 3000, "nested too deeply"),
        ("x=" + "[" * 50 + "]" * 50, "nested too deeply"),
        ("x={" + "a." * 50_000 + "b = 1}", "nested too deeply"),
        (".".join("a" * 30) + "=1", "wanted a key of at most 20 parts"),
        ('attack.0.label="a\\u001b[31m"', "attack.0.label: got 'a\\x1b[31m', wanted text on one line"),
        ("model.hidden=[4611686018427387904]", "model.name: mlp cannot be built"),
        ("attack", "wanted key=value"),
        ('"attack=1', "wanted key=value"),
    ],
)
def test_odd_overrides_are_told_with_their_key(change: str, message: str, tiny_recipe: Path, tmp_path: Path) -> None:
    result = run_command("run", tiny_recipe, "--set", change)
    assert result.returncode == 2, result
    assert message in result.stderr
    assert len(result.stderr) < 1000
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "a\0b"],
        ["run", "--out", "a\0b"],
        ["run", "--resume", "--out", "a\0b"],
        ["run", ""],
        ["run", "/dev/zero"],
        ["run", "x" * 5000],
        ["run", "--jobs", "1000000000"],
        ["run", "--seeds", DIGITS],
        ["run", "--engine", "[bold]"],
        ["show", "[/red]"],
        ["report", "a\0b"],
        ["compare", "a\0b"],
        ["compare", "[/red]", "\udcff"],
        ["quarantine", "x" * 5000],
    ],
)
def test_odd_words_are_told(arguments: list[str]) -> None:
    result = run_command(*arguments)
    assert result.returncode == 2, result
    assert result.stderr
    assert len(result.stderr) < 10_000
    assert result.stdout == ""


def test_a_link_that_leads_to_itself_is_told(tmp_path: Path) -> None:
    (tmp_path / "loop.toml").symlink_to(tmp_path / "loop.toml")
    assert run_command("run", "loop.toml").returncode == 2


@pytest.mark.parametrize("text", ["a." * 100_000 + "b = 1", "a = " + "[" * 100_000, "a = " + "1" * 10_000, "\0"])
def test_odd_recipes_are_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text(text)
    result = run_command("show", "odd.toml")
    assert result.returncode == 2
    assert "odd.toml" in result.stderr


def test_many_faults_are_told_in_a_few_lines(tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text("".join(f"key{i} = {i}\n" for i in range(2000)))
    result = run_command("show", "odd.toml")
    assert result.returncode == 2
    assert "more" in result.stderr.splitlines()[-1]
    assert len(result.stderr.splitlines()) < 60


def test_labels_are_printed_without_markup(tiny_recipe: Path) -> None:
    labels = ["--set", "attack.0.label=[/red] :smile:", "--set", "defence.0.label=[bold]x"]
    result = run_command("run", tiny_recipe, "--seeds", "1", "--jobs", "1", "--set", "schedule.steps=1", *labels)
    assert result.returncode == 0, result.stderr
    for console in (result.stdout, run_command("compare", "runs/tiny").stdout):
        assert "[/red]" in console
        assert ":smile:" in console
        assert "[bold]x" in console


def test_entries_are_named_whatever_their_label_holds() -> None:
    shown = run_command("show", "quickstart", "--set", "attack.accumulative λ=0.epsilon=0.07", "--json")
    entries = {entry["label"]: entry for entry in json.loads(shown.stdout)["attack"]}
    assert entries["accumulative λ=0"]["epsilon"] == 0.07
    dotted = ["--set", "attack.0.label=a.b=c.d", "--set", "attack.a.b=c.d.label=again"]
    assert json.loads(run_command("show", "quickstart", *dotted, "--json").stdout)["attack"][0]["label"] == "again"
    quoted = run_command("show", "quickstart", "--set", 'burn_in.earlier."a.b=c"=file')
    assert "burn_in.earlier: got files without burn_in.checkpoint" in quoted.stderr


@pytest.mark.parametrize("where", ["import", "call"])
def test_a_module_that_exits_is_told(where: str, tiny_recipe: Path, tmp_path: Path) -> None:
    name = f"exits_{where}_{tmp_path.name}"
    body = "raise SystemExit(0)" if where == "import" else "def f(probe):\n    raise SystemExit(0)\n"
    (tmp_path / f"{name}.py").write_text(body)
    result = run_command("run", tiny_recipe, "--set", f"defence.1.name={name}:f", "--jobs", "1")
    assert result.returncode == 2
    assert f"{name}:f" in result.stderr
    assert "SystemExit" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_told() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "taster", "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 2
    assert result.stderr == "error: [Errno 28] No space left on device\n"
