"""Whatever is typed, the command exits with a code and a sentence, never with a traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taster.cli import main

WORDS = st.sampled_from(
    ["list", "show", "report", "compare", "quarantine", "--json", "--quiet", "--set", "--out", "--help", "--markdown"]
) | st.sampled_from(
    [
        "[/red]",
        "\x00",
        "",
        "..",
        "/",
        "nothing.toml",
        "quickstart",
        "9" * 5000,
        "a=b",
        "seeds.a.b=1",
        "-1",
        "\ud800",
        "*",
    ]
)


def code_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["taster", *arguments])
    try:
        main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_any_words_end_with_a_code_and_no_traceback(
    thorough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    @settings(
        max_examples=800 if thorough else 60,
        deadline=None,
        database=None,
        derandomize=not thorough,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(WORDS | st.text(max_size=8), max_size=5))
    def any_of_them(arguments: list[str]) -> None:
        assert code_of(arguments, monkeypatch) in (0, 1, 2, None)
        output = capsys.readouterr()
        assert "Traceback" not in output.out + output.err

    any_of_them()


@pytest.mark.parametrize(
    "override",
    ["seeds.a.b=1", "compute.threads=1099511627776", "name=../outside", 'name="\\u0000"', "seeds=" + "9" * 5000, "="],
)
def test_a_run_with_an_impossible_setting_exits_with_2(
    override: str,
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert code_of(["run", str(tiny_recipe), "--set", override, "--quiet"], monkeypatch) == 2
    output = capsys.readouterr()
    assert "Traceback" not in output.out + output.err
    assert output.err.strip()
    assert not (tmp_path.parent / "outside").exists()
