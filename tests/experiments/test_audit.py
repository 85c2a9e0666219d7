"""taster audit: from a model and data of the user's own to a recipe."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from taster.cli import app
from taster.errors import CheckpointError, DataError, ModelError, RecipeError, TasterError
from taster.experiments import read_recipe, run_recipe
from taster.experiments.audit import Audit, AuditRequest
from taster.experiments.audit.checks import checked_context
from taster.experiments.audit.findings import examine
from taster.experiments.audit.plan import Speed, Timing, TrainingSpeed, stream_size, training_size
from taster.experiments.audit.suite import EXTENTS, Size, Suite
from taster.experiments.audit.trial import STREAM_RATES, RateTrials, choose_rate, is_level, trial_steps
from taster.experiments.recipes.checks import parse_recipe
from taster.experiments.running.progress import NoProgress


def write_images(folder: Path, per_class: int = 4, classes: tuple[str, ...] = ("cat", "dog"), size: int = 8) -> None:
    draws = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = draws.integers(0, 255, (size, size), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASTER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting workers takes longer than these nets."""
    monkeypatch.setattr("taster.experiments.running.runner.available_cores", lambda: 1)


def test_a_csv_of_paths_keeps_its_class_names(tmp_path: Path) -> None:
    write_images(tmp_path)
    lines = [f"{name}/{i}.png,{name}" for name in ("dog", "cat") for i in range(4)]
    (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    found = examine(AuditRequest("mlp", str(tmp_path / "labels.csv")))
    assert (found.names, found.train, found.shape, found.largest) == (["cat", "dog"], 8, (1, 8, 8), 50.0)
    resized = examine(AuditRequest("mlp", str(tmp_path / "labels.csv"), resize=(4, 6), color="rgb"))
    assert resized.shape == (3, 4, 6)


def test_mixed_sizes_name_the_option_that_mends_them(tmp_path: Path) -> None:
    write_images(tmp_path, size=8, classes=("cat",))
    write_images(tmp_path, size=9, classes=("dog",))
    lines = [f"{name}/0.png,{name}" for name in ("cat", "dog")] * 2
    (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    with pytest.raises(DataError, match="--resize HEIGHTxWIDTH"):
        examine(AuditRequest("mlp", str(tmp_path / "labels.csv")))


def test_an_unreadable_and_a_missing_image_are_named(tmp_path: Path) -> None:
    write_images(tmp_path)
    listing = tmp_path / "labels.csv"
    listing.write_text("path,label\ncat/0.png,cat\ndog/0.png,dog\ncat/9.png,cat\n")
    with pytest.raises(DataError, match=r"1 of 3 images are not there: .*9\.png"):
        examine(AuditRequest("mlp", str(listing)))
    (tmp_path / "cat" / "9.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"9\.png: cannot be read as an image"):
        examine(AuditRequest("mlp", str(listing)))


def test_a_folder_of_one_class_or_of_none_is_told(tmp_path: Path) -> None:
    write_images(tmp_path / "one", classes=("cat",))
    with pytest.raises(DataError, match="one class 'cat'"):
        examine(AuditRequest("mlp", str(tmp_path / "one")))
    with pytest.raises(DataError, match="without sub-folders"):
        examine(AuditRequest("mlp", str(tmp_path / "one" / "cat")))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"model": "no module"}, RecipeError, "--model"),
        ({"budget": 0.0}, RecipeError, "--budget"),
        ({"epsilon": 2.0}, RecipeError, "--epsilon"),
        ({"seeds": 0}, RecipeError, "--seeds"),
    ],
)
def test_bad_options_are_told(given: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AuditRequest(**{"model": "mlp", "data": "digits", **given})  # type: ignore[arg-type]


def test_too_few_samples_and_a_model_that_does_not_take_them(tmp_path: Path) -> None:
    write_images(tmp_path / "few")
    (tmp_path / "few.csv").write_text(
        "path,label\n" + "".join(f"few/{n}/{i}.png,{n}\n" for n in ("cat", "dog") for i in range(4))
    )
    with pytest.raises(DataError, match="got 8 samples, wanted at least 300"):
        Audit(AuditRequest("mlp", str(tmp_path / "few.csv")), NoProgress(), print)
    with pytest.raises(ModelError, match=r"--model: torch.nn:Identity (?s:.*)--resize(?s:.*)10 classes"):
        Audit(AuditRequest("torch.nn:Identity", "digits"), NoProgress(), print)


@pytest.mark.usefixtures("_in_this_process")
def test_the_recipe_is_one_that_runs_and_fits_the_budget() -> None:
    audit = Audit(
        AuditRequest("mlp", "digits", budget=0.5, seeds=1, overrides=["burn_in.momentum=0.5"]), NoProgress(), print
    )
    recipe, rows = audit.first_pass()
    assert len(rows) == len(recipe.attack) * len(recipe.defence)
    suite = audit.recipe()
    assert suite.schedule.accuracy_floor is not None
    assert suite.schedule.margin == 5.0
    assert suite.burn_in.momentum == 0.5
    assert suite.schedule.steps >= 20
    attacks, defences = ([entry.name for entry in part] for part in (suite.attack, suite.defence))
    assert (len(attacks), len(defences)) in [(7, 4), (7, 2), (5, 2)]


@pytest.mark.usefixtures("_in_this_process")
def test_a_suite_with_entries_that_the_user_has_set_is_run_whole(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["defence.clipping.max_norm=2.0", "attack.accumulative.epsilon=0.2"]
    request = AuditRequest("mlp", "digits", budget=0.5, learning_rate=0.1, overrides=overrides)
    suite = Audit(request, NoProgress(), print).recipe()
    assert (len(suite.attack), len(suite.defence)) == (7, 4)
    assert next(entry for entry in suite.defence if entry.name == "clipping").settings["max_norm"] == 2.0
    said = capsys.readouterr().out
    assert f"the suite: 7 attacks × 4 defences, {len(suite.seeds)} seed" in said
    assert ("is too small for a result" in said) == (len(suite.seeds) < 3)


def test_the_greatest_of_the_good_rates_is_taken() -> None:
    assert choose_rate({0.1: float("nan"), 0.03: 0.51, 0.01: 0.50, 0.001: 2.0}) == 0.03
    assert choose_rate({0.1: float("inf"), 0.01: float("nan")}) == 0.01


def test_a_folder_of_save_to_disk_is_read_with_its_classes(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    pixels = [Image.fromarray(np.full((8, 8), value, dtype=np.uint8)) for value in range(6)]
    made = datasets.Dataset.from_dict({"picture": pixels, "kind": [0, 1] * 3}, features=features)
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "two"))
    one, two = (examine(AuditRequest("mlp", str(tmp_path / name))) for name in ("one", "two"))
    assert (one.train, one.test, one.names, one.shape) == (6, None, ["cat", "dog"], (1, 8, 8))
    assert (two.train, two.test) == (6, 6)


# Pillow leaves a file open that it cannot read, in the call that `datasets` makes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_unreadable_image_in_a_folder_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    whole = (tmp_path / "photos" / "dog" / "1.png").read_bytes()
    (tmp_path / "photos" / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"dog/cut\.png: cannot be read as an image"):
        examine(AuditRequest("mlp", str(tmp_path / "photos")))


def test_the_label_of_a_table_is_the_column_called_so_else_the_last(tmp_path: Path) -> None:
    named, last, bare = (tmp_path / f"{name}.csv" for name in ("named", "last", "bare"))
    named.write_text("label,width\nsmall,1\nbig,5\nsmall,2\n")
    last.write_text("width,kind\n1,small\n5,big\n2,small\n")
    bare.write_text("small,a word\nbig,another word\nsmall,words\n")
    assert examine(AuditRequest("mlp", str(named))).names == ["big", "small"]
    assert examine(AuditRequest("mlp", str(last))).names == ["big", "small"]
    texts = examine(AuditRequest("mlp", str(bare), label="0", text="1"))
    assert (texts.kind, texts.train, texts.scene) == ("texts", 3, "offline")


def test_a_folder_called_digits_is_preferred_by_an_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    found = examine(AuditRequest("mlp", "digits"))
    assert (found.section["source"], found.names) == ("./digits", ["cat", "dog"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "nowhere:make", "--data", "digits"], "--model: nowhere:make: cannot be imported"),
        (["--model", "mlp", "--data", "digits", "--weights", "none.pt"], "--weights: none.pt: no such file"),
        (["--model", "mlp", "--data", "none.csv"], "no such file"),
        (["--model", "mlp", "--data", "digits", "--resize", "big"], "--resize: got 'big'"),
        (["--model", "mlp", "--data", "digits", "--color", "red"], "--color: got 'red'"),
        (["--model", "mlp", "--data", "digits", "--text", "words"], "--text"),
        (["--model", "mlp"], "--data: got nothing"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["audit", *options])
    assert isinstance(done.exception, TasterError)
    assert message in str(done.exception)
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_resume_without_a_directory_is_told() -> None:
    done = CliRunner().invoke(app, ["audit", "--resume"])
    assert "--out" in str(done.exception)


def test_weights_that_do_not_fit_name_their_keys(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"--weights: .*does not fit the model:\n.*missing in the file"):
        Audit(AuditRequest("mlp", "digits", weights=str(tmp_path / "weights.pt")), NoProgress(), print)


@pytest.mark.usefixtures("_in_this_process")
def test_weights_that_know_nothing_of_the_data_are_refused(tmp_path: Path) -> None:
    from taster.models import MODELS

    torch.manual_seed(0)
    torch.save(MODELS["mlp"](shape=(1, 8, 8), classes=10).state_dict(), tmp_path / "weights.pt")
    request = AuditRequest("mlp", "digits", weights=str(tmp_path / "weights.pt"), budget=0.5, seeds=1)
    with pytest.raises(ModelError, match=r"nothing to break(?s:.*)Do the weights expect other classes"):
        Audit(request, NoProgress(), print)


@pytest.mark.usefixtures("_in_this_process")
def test_a_table_is_audited_and_its_recipe_does_the_same_again(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    rows = [f"{x:.3f},{y:.3f},{'right' if x + y > 0 else 'left'}" for x, y in draws.normal(size=(200, 2))]
    (tmp_path / "table.csv").write_text("width,height,side\n" + "\n".join(rows) + "\n")
    request = AuditRequest(
        "mlp", str(tmp_path / "table.csv"), budget=0.5, seeds=1, learning_rate=0.1, overrides=["offline.epochs=2"]
    )
    audit = Audit(request, NoProgress(), print)
    recipe = audit.recipe()
    assert (recipe.offline is not None and recipe.offline.epochs, recipe.data.class_names) == (2, ["left", "right"])
    rows_of = run_recipe(recipe, tmp_path / "run", jobs=1)
    again = run_recipe(read_recipe(str(tmp_path / "run" / "recipe.toml")), tmp_path / "again", jobs=1)
    figures = [[row["accuracy"] for row in found] for found in (rows_of, again)]
    assert len(rows_of) == len(recipe.attack) * len(recipe.defence)
    assert figures[0] == figures[1]


ATTACKS = ("none", "label_flip", "vanilla_trigger", "accumulative", "guard_aware")
CELLS = {
    "large": [(a, d) for a in ATTACKS for d in ("none", "clipping", "accuracy_monitor", "guard")],
    "medium": [(a, d) for a in ATTACKS for d in ("none", "guard")],
    "small": [(a, d) for a in ATTACKS[:3] for d in ("none", "guard")],
}
"""A suite's cells, in small."""
STEP = {(a, d): s * g for a, s in zip(ATTACKS, (1, 1, 4, 10, 20), strict=True) for d, g in (("none", 1), ("guard", 2))}


def speed(**known: object) -> Speed:
    return Speed(**{"jobs": 1, "start": 0.0, "cell": 0.0, "test": 0.0, "step": STEP, **known})  # type: ignore[arg-type]


def test_a_suites_seconds_are_those_of_its_parts() -> None:
    assert speed().suite_seconds([("none", "none"), ("guard_aware", "guard")], Size(1, 19, 0)) == 20 * (1 + 40)
    # Noise is as fast as no attack, a backdoor as wrong labels, and the monitor as the guard.
    step = {("none", "guard"): 2.0, ("label_flip", "none"): 3.0, ("none", "none"): 1.0}
    like = [("random_noise", "accuracy_monitor"), ("patch_backdoor", "clipping")]
    assert speed(step=step).suite_seconds(like, Size(1, 19, 0)) == 20 * (2 + 3)
    # A stream of 20 steps is measured every other step, and three times about its ends.
    of_all = speed(jobs=2, start=5.0, cell=7.0, test=11.0)
    assert of_all.suite_seconds([("none", "none")], Size(4, 20, 0)) == 5 + 4 * (7 + 13 * 11 + 21) / 2


def test_streams_whose_attack_reaches_the_floor_end_early() -> None:
    step = {("none", "none"): 1.0, ("label_flip", "none"): 1.0}
    fall = {("none", "none"): 9.0, ("label_flip", "none"): 2.0}
    falling = speed(step=step, fall=fall)
    # The owner's stop is 10 points down and the attacker strikes 5 before: after three steps of 2 points each.
    assert falling.suite_seconds([("label_flip", "none"), ("patch_backdoor", "clipping")], Size(1, 20, 0)) == 2 * 4
    assert falling.suite_seconds([("none", "none")], Size(1, 20, 0)) == 21  # whom nobody attacks goes on


def test_speeds_are_measured_and_slower_side_by_side() -> None:
    look = Timing(2, {("none", "none"): 6.0, ("none", "guard"): 10.0, ("label_flip", "none"): 8.0}, test_seconds=1.0)
    rehearsal = Timing(4, {("none", "none"): 10.0, ("none", "guard"): 16.0, ("guard_aware", "none"): 44.0}, 1.0)
    assert look.step_seconds() == {("none", "none"): 1.0, ("none", "guard"): 3.0, ("label_flip", "none"): 2.0}
    look = dataclasses.replace(look, falls={("label_flip", "none"): 3.0})
    found = Speed.measured(look, rehearsal, jobs=2, start=3.0, cell=0.5)
    slower = (1.5 + 3.0) / (1.0 + 3.0)
    assert found.step == {
        ("none", "none"): 1.5,
        ("none", "guard"): 3.0,
        ("guard_aware", "none"): 10.0,
        ("label_flip", "none"): 2.0 * slower,
    }
    assert found.fall == {("label_flip", "none"): 1.5}
    assert (found.jobs, found.start, found.cell, found.test) == (2, 3.0, 0.5 * slower, slower)


@pytest.mark.parametrize("seconds", [400.0, 900.0, 2000.0, 8000.0, 20_000.0, 100_000.0])
def test_a_suite_is_as_large_as_its_seconds_allow(seconds: float) -> None:
    size = stream_size(speed(), seconds, CELLS, 0, 0.0, None)  # type: ignore[arg-type]
    takes = speed().suite_seconds(CELLS[size.extent], size)
    assert size.steps >= 20
    if takes <= seconds:
        longer = Size(size.seeds, size.steps + 1, 0, size.extent)
        assert size.steps in (60, 200) or speed().suite_seconds(CELLS[size.extent], longer) > seconds
    else:
        assert (size.seeds, size.steps, size.extent) == (1, 20, "small")


def test_attacks_come_before_steps_and_three_seeds_before_attacks() -> None:
    def at(seconds: float, **more: object) -> tuple[int, int, str]:
        size = stream_size(speed(**more), seconds, CELLS, 0, 0.0, None)  # type: ignore[arg-type]
        return size.seeds, size.steps, size.extent

    small, medium, large = (
        speed().suite_seconds(CELLS[extent], Size(3, 20, 0)) for extent in ("small", "medium", "large")
    )
    assert at(large) == (3, 20, "large")
    assert at(large - 1)[2] == "medium"
    assert at(medium - 1)[2] == "small"
    assert at(small - 1)[::2] == (2, "small")
    assert at(1.0) == (1, 20, "small")
    assert at(1e9) == (10, 200, "large")
    cheap = {cell: step for cell, step in STEP.items() if cell[0] in ATTACKS[:3]}
    assert at(1e9, step=cheap) == (10, 200, "small")


TRAINING = TrainingSpeed(jobs=1, start=0.0, cell=0.0, epoch=1.0)


def test_a_suite_of_trainings_takes_what_its_parts_take() -> None:
    assert TrainingSpeed(jobs=2, start=3.0, cell=5.0, epoch=7.0).suite_seconds(4, Size(3, 10, 0)) == 3 + 12 * 75 / 2


def test_seeds_that_are_asked_for_are_kept() -> None:
    assert [stream_size(speed(), seconds, CELLS, 0, 0.0, 5).seeds for seconds in (1.0, 1e9)] == [5, 5]  # type: ignore[arg-type]
    assert [training_size(TRAINING, seconds, 4, 5).seeds for seconds in (1.0, 1e9)] == [5, 5]


@pytest.mark.parametrize(
    ("seconds", "found"),
    [(1.0, (1, 2)), (9.0, (1, 3)), (13.0, (2, 2)), (23.0, (3, 2)), (32.0, (3, 3)), (41.0, (4, 3)), (1e9, (10, 30))],
)
def test_trainings_take_what_there_is(seconds: float, found: tuple[int, int]) -> None:
    size = training_size(TRAINING, seconds, 3, None)
    assert (size.seeds, size.steps) == found


def test_a_mean_that_rises_by_less_than_its_error_is_level() -> None:
    before = torch.zeros(100)
    noise = torch.randn(100, generator=torch.Generator().manual_seed(0))
    centred = noise - noise.mean()
    error = float(centred.std()) / 10
    assert is_level(before, centred + 0.99 * error)
    assert not is_level(before, centred + 1.01 * error)
    assert is_level(before, before - 1)
    assert not is_level(before, torch.full((100,), float("nan")))


def _trials(tmp_path: Path, scale: float) -> RateTrials:
    """Of weights that an mlp learned well; then multiplied, so that it is too sure of what it says."""
    from torch.nn.functional import cross_entropy

    from taster.models import MODELS

    request = AuditRequest("mlp", "digits", weights=str(tmp_path / "weights.pt"))
    findings = examine(request)
    torch.manual_seed(0)
    model = MODELS["mlp"](shape=(1, 8, 8), classes=10)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    recipe = parse_recipe(Suite(request, findings, "online", 0.01).recipe(Size(1, 20, 0)), "audit")
    context = checked_context(recipe, findings, NoProgress())
    batch = context.training_samples
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(model(batch.x), batch.y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return RateTrials(context, 50)


def test_the_rate_of_a_stream_is_the_greatest_that_keeps_the_model_level(tmp_path: Path) -> None:
    trials = _trials(tmp_path, 1.0)
    steps = 30
    before = trials._losses(trials._model())
    after = {rate: float(trials._losses_after(rate, steps).mean() - before.mean()) for rate in STREAM_RATES}
    rate = trials.stream_rate(steps)
    assert rate is not None
    assert rate >= 0.01  # at the least rate nothing is learned, and nothing can be broken
    assert after[rate] <= 0.02
    assert all(rise > 0 for other, rise in after.items() if other > rate)
    assert trials.stream_rate(steps) == rate


def test_weights_that_no_step_leaves_level_have_no_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = _trials(tmp_path, 1.0)
    monkeypatch.setattr("taster.experiments.audit.trial.STREAM_RATES", (100.0, 30.0))
    assert trials.stream_rate(10) is None


def test_trials_look_at_no_trusted_and_no_test_samples(tmp_path: Path) -> None:
    trials = _trials(tmp_path, 1.0)
    kept = {role: trials.context.roles[role] for role in ("burn_in", "validation")}
    blind = RateTrials(dataclasses.replace(trials.context, roles=kept), 50)
    assert blind.stream_rate(10) == trials.stream_rate(10)
    assert blind.step_seconds() > 0


def test_a_slow_model_has_short_trials() -> None:
    assert [trial_steps(seconds, 7.0) for seconds in (1.0, 1 / 40, 1e-9)] == [10, 40, 60]


@pytest.mark.usefixtures("_in_this_process")
def test_the_first_seed_is_trained_once(tmp_path: Path) -> None:
    from taster.experiments import RunDirectory
    from taster.experiments.running.tasks import seed_context
    from taster.experiments.scenarios.burn_in import burn_in

    request = AuditRequest("mlp", "digits", budget=0.5, seeds=1, learning_rate=0.1, overrides=["schedule.steps=1"])
    audit = Audit(request, NoProgress(), print)
    _, rows = audit.first_pass()
    recipe = audit.recipe()
    assert list(audit.burnt_in) == recipe.seeds == [0]
    assert audit.burnt_in[0]["model"]["1.weight"].shape[1] == 64
    stages: list[str] = []

    class Listener(NoProgress):
        def begin(self, stage: str, steps: int) -> None:
            stages.append(stage)

    small = recipe.model_copy(update={"attack": recipe.attack[:1], "defence": recipe.defence[:1]})
    run_recipe(small, tmp_path / "run", jobs=1, burnt_in=audit.burnt_in, progress=Listener())
    assert stages == ["attacks × defences"]
    there = RunDirectory(tmp_path / "run").burn_in(0)
    # Trained in parts, for the first look and then to the end, and at once: the same bits.
    anew = burn_in(seed_context(recipe, 0))
    assert there is not None
    assert all(torch.equal(there["model"][name], value) for name, value in anew["model"].items())
    assert rows[0]["acc_start"] <= 100.0


def test_extents_are_from_the_largest_to_the_smallest() -> None:
    request = AuditRequest("mlp", "digits")
    suite = Suite(request, examine(request), "online", 0.1)
    found = [suite.functions(extent) for extent in EXTENTS]
    assert [(len(attacks), len(defences)) for attacks, defences in found] == [(7, 4), (7, 2), (5, 2)]
    for (attacks, defences), (fewer, behind) in itertools.pairwise(found):
        assert set(fewer) <= set(attacks)
        assert set(behind) <= set(defences)
