"""Which results are stale: settings against the library's, files against git's, and what cannot be known."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.conftest import TINY_RECIPE, run_command

from taster.errors import RunDirectoryError
from taster.experiments import read_recipe
from taster.experiments.checkout import PACKAGE, Checkout, source_checkout
from taster.experiments.kept_results import KeptResult, differing_settings, kept_results
from taster.experiments.source_files import source_files

QUICK = "quickstart"


def git(folder: Path, *arguments: str) -> str:
    own = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *own, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A repository with empty files where taster's are."""
    package = tmp_path / "repository" / "src" / "taster"
    for name in source_files(read_recipe(QUICK)) | {"attacks/online/generative.py", "report/page.py"}:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
    (package / "__init__.py").write_text("")
    git(tmp_path / "repository", "init", "-q")
    git(tmp_path / "repository", "add", ".")
    git(tmp_path / "repository", "commit", "-qm", "first")
    return Checkout(package)


def keep(folder: Path, text: str, commit: str | None) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(text)
    (folder / "environment.json").write_text(json.dumps({"commit": commit}))
    return folder


def kept(
    tmp_path: Path, checkout: Checkout | None, *, overrides: list[str] | None = None, mark: str = ""
) -> KeptResult:
    """The quickstart as a result that was made at the checkout's present commit."""
    commit = "abc" if checkout is None else git(checkout.package, "rev-parse", "HEAD")[:12] + mark
    folder = keep(tmp_path / "results" / QUICK, read_recipe(QUICK, overrides).to_toml(), commit)
    (found,) = kept_results(folder.parent, checkout)
    return found


def test_a_result_of_todays_recipe_and_code_is_not_stale(tmp_path: Path, checkout: Checkout) -> None:
    found = kept(tmp_path, checkout)
    assert (found.name, found.recipe, found.settings, found.code, found.stale) == (QUICK, QUICK, [], [], False)
    assert found.seeds == read_recipe(QUICK).seeds
    assert found.notes == []


def test_settings_that_decide_are_compared_and_those_that_do_not_are_left_aside(
    tmp_path: Path, checkout: Checkout
) -> None:
    aside = ["seeds=7", "compute.threads=3", "compute.device=cpu", "description=other", "data.source=some/where/Digits"]
    assert kept(tmp_path, checkout, overrides=aside).stale is False
    found = kept(tmp_path / "again", checkout, overrides=["schedule.steps=5", "attack.accumulative.epsilon=0.15"])
    assert found.stale is True
    today = read_recipe(QUICK)
    epsilon = next(entry.settings["epsilon"] for entry in today.attack if entry.label == "accumulative")
    assert found.settings == [
        f"schedule.steps: 5, now {today.schedule.steps}",
        f"attack.accumulative.epsilon: 0.15, now {epsilon}",
    ]


def test_an_entry_that_one_side_alone_has_is_one_line(tmp_path: Path) -> None:
    def read(name: str, text: str) -> object:
        (tmp_path / name).write_text(text)
        return read_recipe(str(tmp_path / name))

    more = read("more.toml", TINY_RECIPE + '[[defence]]\nname = "clipping"\nmax_norm = 1.0\n')
    tiny = read("tiny.toml", TINY_RECIPE)
    assert differing_settings(more, tiny) == ["defence.clipping: in the result alone"]  # type: ignore[arg-type]
    assert differing_settings(tiny, more) == ["defence.clipping: in the recipe alone"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("core/step.py", True),
        ("experiments/results.py", True),
        ("attacks/crafting.py", True),
        ("attacks/online/accumulative.py", True),
        ("perturbations/pgd.py", True),
        ("report/page.py", False),
        ("experiments/recipes/library/quickstart.toml", False),
    ],
)
def test_files_that_the_run_uses_are_compared(tmp_path: Path, checkout: Checkout, changed: str, counts: bool) -> None:
    commit = git(checkout.package, "rev-parse", "HEAD")
    keep(tmp_path / "results" / QUICK, read_recipe(QUICK).to_toml(), commit)
    path = checkout.package / changed
    path.parent.mkdir(parents=True, exist_ok=True)
    for committed in (False, True):
        path.write_text("1")
        if committed:
            git(checkout.package, "add", ".")
            git(checkout.package, "commit", "-qm", "second")
        (found,) = kept_results(tmp_path / "results", checkout)
        assert found.code == ([changed] if counts else [])
        assert found.stale is counts


def test_a_new_file_that_is_not_committed_counts(tmp_path: Path, checkout: Checkout) -> None:
    git(checkout.package, "rm", "-q", "--cached", "core/step.py")
    git(checkout.package, "commit", "-qm", "without")
    assert kept(tmp_path, checkout).code == ["core/step.py"]


def test_what_cannot_be_known_is_said_and_is_not_called_fresh(tmp_path: Path, checkout: Checkout) -> None:
    uncommitted = kept(tmp_path / "a", checkout, mark="+")
    assert (uncommitted.stale, uncommitted.code) == (None, [])
    assert uncommitted.notes == ["made with changes that were not committed"]
    assert kept(tmp_path / "b", None).stale is None
    for commit, note in ((None, "no commit was recorded"), ("0" * 12, "no commit 0"), ("--all", "no commit --all")):
        folder = keep(tmp_path / f"c{commit}" / QUICK, read_recipe(QUICK).to_toml(), commit)
        (found,) = kept_results(folder, checkout)
        assert (found.stale, found.code) == (None, None)
        assert note in found.notes[0]
    keep(tmp_path / "d" / "tiny", TINY_RECIPE, git(checkout.package, "rev-parse", "HEAD"))
    (foreign,) = kept_results(tmp_path / "d", checkout)
    assert (foreign.recipe, foreign.settings, foreign.stale) == ("tiny", None, None)
    assert foreign.notes == ["the library has no recipe tiny"]


def test_a_result_whose_files_cannot_be_read_today_is_stale_and_hides_no_other(
    tmp_path: Path, checkout: Checkout
) -> None:
    kept(tmp_path, checkout)
    keep(tmp_path / "results" / "old", 'name = "old"\n[gone]\nkey = 1\n', None)
    odd = keep(tmp_path / "results" / "odd", read_recipe(QUICK).to_toml(), None)
    (odd / "environment.json").write_text("[")
    found = {entry.name: entry for entry in kept_results(tmp_path / "results", checkout)}
    assert (found["old"].stale, found["old"].recipe) == (True, None)
    assert "its recipe cannot be used" in found["old"].notes[0]
    assert (found["odd"].stale, found["odd"].commit) == (None, None)
    assert "environment.json is not what taster run writes" in found["odd"].notes[0]
    assert found[QUICK].stale is False


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no such folder, wanted one with results"):
        kept_results(tmp_path / "nowhere", None)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "environment.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="no results in it"):
        kept_results(tmp_path, None)


def test_the_files_of_a_run_are_those_of_its_stages_and_what_these_import() -> None:
    found = source_files(read_recipe(QUICK))
    assert all((PACKAGE / name).is_file() for name in found)
    assert {
        "core/step.py",
        "experiments/scenarios/online.py",
        "attacks/online/accumulative.py",
        "attacks/crafting.py",
        "derivatives/finite_differences.py",
        "perturbations/pgd.py",
        "utils/settings.py",
        "models/small_cnn.py",
    } <= found
    assert not any(name.startswith(("federated/", "report/", "experiments/recipes/library/")) for name in found)
    assert not {"models/resnet.py", "attacks/online/label_flip.py", "attacks/__init__.py"} & found
    federation = source_files(read_recipe("pang-table-3-small"))
    assert {"federated/server.py", "client_gradients/gradients.py", "attacks/updates/accumulative_updates.py"} <= (
        federation
    )
    guarded = source_files(read_recipe("guard-mnist"))
    assert {"defences/gates/probe_gate.py", "stats/swing.py", "tasks/classification.py"} <= guarded


def test_source_below_another_projects_checkout_is_in_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    package = tmp_path / "site-packages" / "taster"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    assert source_checkout(package) is None
    git(tmp_path, "add", ".")
    source_checkout.cache_clear()
    assert source_checkout(package) == Checkout(package)


def test_the_command_lists_them_and_says_what_it_cannot_know(
    tmp_path: Path, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taster.experiments.checkout.source_checkout", lambda: checkout)
    monkeypatch.setenv("COLUMNS", "120")
    kept(tmp_path, checkout, overrides=["schedule.steps=5"])
    command = ("results", tmp_path / "results")
    listed = run_command(*command)
    assert (listed.returncode, listed.stderr) == (0, "")
    line = next(line for line in listed.stdout.splitlines() if QUICK in line)
    assert line.split()[-3:] == ["1", "same", "settings"]
    assert "1 of 1 are stale: 1 by their settings" in listed.stdout
    assert "setting  schedule.steps: 5, now" in listed.stdout
    document = json.loads(run_command(*command, "--json").stdout)
    assert document["checkout"] == str(checkout.package)
    (entry,) = document["results"]
    assert set(entry) == {"result", "recipe", "commit", "seeds", "settings", "code", "notes", "stale"}
    assert (entry["stale"], entry["code"], len(entry["settings"])) == (True, [], 1)
    monkeypatch.setattr("taster.experiments.checkout.source_checkout", lambda: None)
    without = run_command(*command, "--json")
    assert without.returncode == 0
    assert "no git checkout: whether code has changed since is not known" in without.stderr
    assert json.loads(without.stdout)["results"][0]["code"] is None


def test_the_kept_results_can_all_be_compared() -> None:
    folder = Path(__file__).parent.parent.parent / "results"
    found = kept_results(folder, source_checkout())
    assert len(found) > 40
    assert all(entry.recipe is not None and entry.seeds and entry.commit for entry in found)
    for entry in found:
        assert entry.settings is not None or entry.notes[0] == f"the library has no recipe {entry.recipe}"


def test_the_list_is_readable_in_80_columns(
    tmp_path: Path, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taster.experiments.checkout.source_checkout", lambda: checkout)
    monkeypatch.setenv("COLUMNS", "80")
    kept(tmp_path, checkout, overrides=["seeds=[0,1,2,3,4,7]"])
    listed = run_command("results", tmp_path / "results").stdout.splitlines()
    assert max(map(len, listed)) <= 80
    line = next(line for line in listed if QUICK in line)
    assert "  0–4 7  " in line
