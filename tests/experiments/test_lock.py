"""One process at a time runs in a directory; the lock says who holds it, and dies with its process."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Rows, run_recipe
from tests.experiments.conftest import StartedRun

from taster.errors import RunDirectoryError
from taster.experiments import Recipe, RunDirectory, read_recipe
from taster.experiments.running.workers import worker_context

Start = Callable[[Recipe, Path, int], StartedRun]


@pytest.fixture
def endless(tiny_recipe: Path) -> Recipe:
    return read_recipe(str(tiny_recipe), ["burn_in.epochs=100000"])


def test_a_second_process_is_refused_and_told_who_runs(endless: Recipe, tmp_path: Path, start_run: Start) -> None:
    first = start_run(endless, tmp_path / "run", 1)
    first.wait_for_steps(1)
    wanted = rf"process {first.pid} on {re.escape(socket.gethostname())} has been running in it since \d{{4}}-.*--out"
    with pytest.raises(RunDirectoryError, match=wanted):
        run_recipe(endless, tmp_path / "run", resume=True)
    command = [sys.executable, "-m", "taster", "run", "--resume", "--out", str(tmp_path / "run")]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert re.search(wanted, second.stderr)
    assert "Traceback" not in second.stderr
    with pytest.raises(RunDirectoryError, match="not empty"):
        run_recipe(endless, tmp_path / "run")


def test_the_lock_dies_with_its_process(endless: Recipe, tmp_path: Path, start_run: Start) -> None:
    first = start_run(endless, tmp_path / "run", 1)
    first.wait_for_steps(1)
    first.kill()
    assert (tmp_path / "run" / ".lock").exists()  # its name stays, and locks nothing
    with RunDirectory(tmp_path / "run").lock():
        pass
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_finished_run_leaves_no_lock(reference: tuple[Path, Rows]) -> None:
    assert not (reference[0] / ".lock").exists()


def test_an_empty_folder_that_is_claimed_is_not_free(tiny_recipe: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.lock():
        assert not run.is_free()
        with pytest.raises(RunDirectoryError, match="has been running in it since"):
            run_recipe(read_recipe(str(tiny_recipe)), run.path)
    assert run.is_free()


def test_a_lock_that_was_left_half_written_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text('{"pid": 12')
    run = RunDirectory(tmp_path)
    assert run.is_free()
    with run.lock():
        (tmp_path / ".lock").write_text("[]")
        with pytest.raises(RunDirectoryError, match="another process is running in it"), run.lock():
            pass


def _claim(path: Path, holds: Any, go: Any) -> None:
    go.wait()
    try:
        with RunDirectory(path).lock():
            holds.put(True)
            go.wait()
    except RunDirectoryError:
        holds.put(False)
        go.wait()


def test_of_processes_that_claim_at_once_one_gets_the_lock(tmp_path: Path) -> None:
    processes: Any = worker_context()
    holds, together = processes.Queue(), processes.Barrier(4)
    started = [processes.Process(target=_claim, args=(tmp_path / "run", holds, together)) for _ in range(4)]
    for process in started:
        process.start()
    try:
        assert sorted(holds.get(timeout=120) for _ in started) == [False, False, False, True]
    finally:
        for process in started:
            process.kill()
            process.join()
