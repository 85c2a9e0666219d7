"""Offline recipes: cells, their files, and what is said of recipes that make no sense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import files_without_times, run_command, run_recipe, without_times
from tests.experiments.conftest import Stop

from taster import Guard
from taster.core.training_settings import TrainingSettings
from taster.errors import DataError, RecipeError, RunDirectoryError
from taster.experiments import RunDirectory, read_recipe
from taster.experiments.running.tasks import seed_context
from taster.experiments.scenarios.burn_in import build_model
from taster.experiments.scenarios.offline_attack import craft
from taster.offline import NetTraining
from taster.report import write_report
from taster.report.compare import compared_quantity
from taster.report.offline_summary import offline_table, summarize_offline

RECIPE = """
name = "tiny-offline"
seeds = [0, 1]

[data]
source = "digits"

[split]
train = 200
validation = 60
probe = 50
test = 300

[model]
name = "mlp"
hidden = [16]

[offline]
epochs = 3
batch_size = 20
learning_rate = 0.1

[compute]
threads = 1

[[attack]]
name = "none"

[[attack]]
name = "label_flip"
poison_fraction = 0.5

[[attack]]
name = "patch_backdoor"
size = 2
poison_fraction = 0.25

[[defence]]
name = "none"

[[defence]]
name = "clipping"
"""

MODULE = '''
import torch
from sklearn.naive_bayes import GaussianNB
from taster import Batch
from taster.attacks import DatasetAttack, DatasetBudget, Poison
from taster.defences import DatasetDefence, RobustTraining


def insert_ones(*, poison_fraction: float = 0.1) -> DatasetAttack:
    """Inserts white images of class 3, and wants the attacker's own samples in it."""
    budget = DatasetBudget(poison_fraction, insert=True, content="any", labels=True)

    def poison(clean, knowledge):
        m = budget.max_poisoned(len(clean))
        x = torch.cat([clean.x, torch.ones_like(clean.x[:m])])
        return Poison(Batch(x, torch.cat([clean.y, torch.full((m,), 3)])))

    def target(knowledge):
        return Batch(torch.ones_like(knowledge.own.x[:1]), torch.tensor([3]))

    return DatasetAttack(budget, poison, target=target)


def trains_first() -> DatasetAttack:
    """Changes the samples that a model of the attacker's own is least sure of."""
    budget = DatasetBudget(0.1, content="none", labels=True)

    def poison(clean, knowledge):
        outputs = knowledge.fit(clean).outputs(clean.x)
        first = outputs.max(1).values.argsort()[: budget.max_poisoned(len(clean))]
        y = clean.y.clone()
        y[first] = (y[first] + 1) % knowledge.classes
        return Poison(Batch(clean.x, y))

    return DatasetAttack(budget, poison)


def drop_white() -> DatasetDefence:
    """Leaves out images without a dark pixel."""
    return DatasetDefence(lambda run: (run.samples.x.flatten(1).min(1).values < 1).float())


def writes() -> DatasetDefence:
    """Writes into the set that it is shown."""
    def weigh(run):
        run.samples.x.zero_()
        return torch.rand(len(run.samples)) + 0.5

    return DatasetDefence(weigh)


def wants_class_99() -> DatasetAttack:
    """Wants a class that there is not."""
    budget = DatasetBudget(0.1)
    return DatasetAttack(budget, Poison, target=lambda known: Batch(known.own.x[:1], torch.tensor([99])))


def drop_all() -> DatasetDefence:
    """Leaves out everything."""
    return DatasetDefence(lambda run: torch.zeros(len(run.samples)))


def drop_some() -> DatasetDefence:
    """Leaves out everything where a class is much more frequent than in a clean set."""
    def weigh(run):
        most = torch.bincount(run.samples.y, minlength=10).max()
        return torch.full((len(run.samples),), float(most < 40))

    return DatasetDefence(weigh)


class Certain:
    def __init__(self, model):
        self._model = model

    def outputs(self, x):
        return self._model.outputs(x)

    def radius(self, x):
        return torch.arange(len(x)) % 4


def trusted_alone() -> RobustTraining:
    """Trains on the trusted samples."""
    return RobustTraining(lambda run: (Certain(run.fit(run.trusted)), torch.zeros(len(run.samples)) + 1))


def bayes(shape, classes):
    return GaussianNB()


def nothing():
    return 5
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"offline_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture
def recipe_of(tmp_path: Path) -> Callable[..., Any]:
    def read(*changes: tuple[str, str], more: str = "", overrides: list[str] | None = None) -> Any:
        text = RECIPE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "recipe.toml"
        path.write_text(text + more)
        return read_recipe(str(path), overrides or [])

    return read


def by_cell(rows: Any) -> dict[tuple[str, str, int], Any]:
    return {(row["attack"], row["defence"], row["seed"]): row for row in rows}


def test_a_run_leaves_rows_lines_and_a_page(recipe_of: Callable[..., Any], tmp_path: Path) -> None:
    recipe = recipe_of()
    rows = by_cell(run_recipe(recipe, tmp_path / "run"))
    assert len(rows) == 12
    clean, flipped, planted = (rows[name, "none", 0] for name in ("none", "label_flip", "patch_backdoor"))
    assert clean["poisoned"] == 0
    assert flipped["poisoned"] == 100
    assert flipped["accuracy"] < clean["accuracy"] - 3
    assert planted["asr"] > 60
    assert "asr" not in clean
    assert clean["samples"] == clean["kept"] == 200
    assert clean["steps"] == 30
    assert len(clean["recall"]) == 10
    run = RunDirectory(tmp_path / "run")
    lines = run.cell("label_flip", "none", 0).steps()
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["test_accuracy"] == flipped["accuracy"]
    assert lines[-1]["loss_poisoned"] > lines[-1]["loss_clean"]
    assert not (tmp_path / "run" / "burn_in").exists()
    page = write_report(run).read_text()
    for text in ("What the poison did", "Accuracy by epoch", "How fast clean and poisoned", "the training set"):
        assert text in page
    assert (tmp_path / "run" / "figures" / "losses-1-light.svg").is_file()
    compared = run_command("compare", tmp_path / "run", tmp_path / "run")
    assert compared.returncode == 0
    assert "test accuracy after training" in compared.stdout


def test_a_clean_cell_is_the_training_by_itself(recipe_of: Callable[..., Any], tmp_path: Path) -> None:
    recipe = recipe_of(overrides=["seeds=[1]"])
    rows = by_cell(run_recipe(recipe, tmp_path / "run"))
    context = seed_context(recipe, 1)
    settings = TrainingSettings(epochs=3, batch_size=20, learning_rate=0.1)
    training = NetTraining(lambda seed: build_model(recipe, context.data, 1, context.device), settings, seed=1)
    test = context.batches["test"]
    view = training(context.training_set)
    assert rows["none", "none", 1]["accuracy"] == pytest.approx(view.accuracy(test.x, test.y))


def test_a_stopped_run_goes_on_to_the_same_end(recipe_of: Callable[..., Any], tmp_path: Path) -> None:
    recipe = recipe_of()
    whole = run_recipe(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "stopped", jobs=1, progress=Stop(14))
    resumed = run_recipe(recipe, tmp_path / "stopped", resume=True, jobs=1)
    assert without_times(whole) == without_times(resumed)
    assert files_without_times(tmp_path / "whole") == files_without_times(tmp_path / "stopped")


@pytest.mark.parametrize("name", ["patch_backdoor", "blended_backdoor", "clean_label_backdoor", "label_flip"])
def test_a_share_is_one_of_the_set_and_not_of_each_batch(name: str, recipe_of: Callable[..., Any]) -> None:
    # Of a batch of 20 it would be no sample.
    more = f'[[attack]]\nname = "{name}"\nlabel = "few"\npoison_fraction = 0.03\n'
    recipe = recipe_of(more=more)
    context = seed_context(recipe, 0)
    assert int(craft(context, recipe.attack[-1], None, recipe.defence[0]).dataset.poisoned.sum()) == 6


def test_only_attackers_that_look_at_a_model_train_one(recipe_of: Callable[..., Any]) -> None:
    more = '[[attack]]\nname = "adversarial_poison"\nepsilon = 0.1\n'
    recipe = recipe_of(more=more)
    context, trained = seed_context(recipe, 0), []

    def counting(self: NetTraining, *args: Any, **options: Any) -> Any:
        trained.append(self.seed)
        return self.train(args[0], Guard(), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetTraining, "__call__", counting)
        for attack in recipe.attack[:3]:
            craft(context, attack, None, recipe.defence[0])
        assert not trained
        found = craft(context, recipe.attack[-1], None, recipe.defence[0]).dataset
    assert len(trained) == 1
    assert trained[0] != context.seed  # the victim's own seed is not the attacker's
    # Adversarial for what is learned, and so for another net of the kind; for the untrained one it is noise.
    clean, settings = context.training_set, TrainingSettings(epochs=3, batch_size=20, learning_rate=0.1)
    view = NetTraining(lambda seed: build_model(recipe, context.data, 0, context.device), settings)(clean)
    assert view.accuracy(found.samples.x, clean.y) < view.accuracy(clean.x, clean.y) - 10


@pytest.mark.parametrize("mode", ["fine_tune", "transfer"])
def test_training_begins_with_what_was_burnt_in(mode: str, recipe_of: Callable[..., Any], tmp_path: Path) -> None:
    changes = (
        ("train = 200", "train = 200\nburn_in = 300"),
        (
            "[offline]\nepochs = 3",
            f'[burn_in]\nepochs = 6\nlearning_rate = 0.2\n[offline]\nmode = "{mode}"\nepochs = 1',
        ),
    )
    recipe = recipe_of(*changes, overrides=["seeds=[0]"])
    rows = by_cell(run_recipe(recipe, tmp_path / "run"))
    assert rows["none", "none", 0]["accuracy"] > 60  # one epoch on 200 samples alone makes some 20
    assert (tmp_path / "run" / "burn_in" / "seed-0.safetensors").is_file()


def test_attacks_and_defences_of_ones_own(own: str, recipe_of: Callable[..., Any], tmp_path: Path) -> None:
    more = (
        f'[[attack]]\nname = "{own}:insert_ones"\nlabel = "ones"\n[[attack]]\nname = "{own}:trains_first"\n'
        f'[[defence]]\nname = "{own}:drop_white"\nlabel = "white"\n'
        f'[[defence]]\nname = "{own}:trusted_alone"\nlabel = "trusted"\n'
        f'[[defence]]\nname = "clipping"\nlabel = "both"\nplus = ["{own}:drop_white"]\n'
    )
    rows = by_cell(run_recipe(recipe_of(more=more, overrides=["seeds=[0]"]), tmp_path / "run"))
    ones = rows["ones", "none", 0]
    assert (ones["samples"], ones["poisoned"], ones["inserted"], ones["target_success"]) == (220, 20, 20, 100)
    for label in ("white", "both"):
        left = rows["ones", label, 0]
        assert (left["kept"], left["precision"], left["found"]) == (200, 100, 100)
        assert left["accuracy"] > ones["accuracy"] - 5
    trusted = rows["label_flip", "trusted", 0]
    assert trusted["certified"]["0"] == pytest.approx(trusted["accuracy"])
    assert trusted["certified"]["3"] < trusted["certified"]["0"] / 2
    assert rows[f"{own}:trains_first", "none", 0]["poisoned"] == 20
    assert "What is proved" in write_report(RunDirectory(tmp_path / "run")).read_text()


def test_estimators_are_trained_as_well(own: str, recipe_of: Callable[..., Any], tmp_path: Path) -> None:
    bayes = ('name = "mlp"\nhidden = [16]', f'name = "{own}:bayes"')
    no_guard = ('[[defence]]\nname = "clipping"\n', f'[[defence]]\nname = "{own}:drop_white"\n')
    rows = by_cell(run_recipe(recipe_of(bayes, no_guard, overrides=["seeds=[0]"]), tmp_path / "run"))
    assert rows["none", "none", 0]["accuracy"] > 60
    assert rows["label_flip", "none", 0]["poisoned"] == 100
    with pytest.raises(RecipeError, match="got a guard with an estimator"):
        run_recipe(recipe_of(bayes), tmp_path / "other")
    burnt = ("train = 200", "train = 200\nburn_in = 100")
    tuned = ("[offline]", '[burn_in]\nepochs = 1\n[offline]\nmode = "fine_tune"')
    with pytest.raises(RecipeError, match="with the estimator"):
        run_recipe(recipe_of(bayes, no_guard, burnt, tuned), tmp_path / "third")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ('estimator = "sklearn.svm:LinearSVD"', "sklearn.svm:LinearSVD: cannot be imported"),
        ('estimator = "sklearn.svm:LinearSVC"\noptions = {c = 1}', "cannot be called with them .* it knows penalty"),
        ('estimator = "sklearn.preprocessing:StandardScaler"', "has no predict"),
        ("", "model.estimator: got nothing"),
    ],
)
def test_estimators_that_are_none(model: str, message: str, recipe_of: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run_recipe(recipe_of(('name = "mlp"\nhidden = [16]', f'name = "sklearn"\n{model}')), tmp_path / "run")


def test_an_estimator_by_its_path(recipe_of: Callable[..., Any], tmp_path: Path) -> None:
    svm = ('name = "mlp"\nhidden = [16]', 'name = "sklearn"\nestimator = "sklearn.svm:SVC"\noptions = {C = 5.0}')
    recipe = recipe_of(svm, ('[[defence]]\nname = "clipping"\n', ""), overrides=["seeds=[0]"])
    rows = by_cell(run_recipe(recipe, tmp_path / "run"))
    assert rows["none", "none", 0]["accuracy"] > 80


def test_a_surrogate_is_the_attackers_own_model(own: str, recipe_of: Callable[..., Any], tmp_path: Path) -> None:
    more = f'[[attack]]\nname = "{own}:trains_first"\nlabel = "first"\n'
    white = run_recipe(recipe_of(more=more, overrides=["seeds=[0]"]), tmp_path / "white")
    black_box = ("learning_rate = 0.1", 'learning_rate = 0.1\nattacker_models = [{name = "mlp", hidden = [4]}]')
    black = run_recipe(recipe_of(black_box, more=more, overrides=["seeds=[0]"]), tmp_path / "black")
    assert by_cell(white)["none", "none", 0]["accuracy"] == by_cell(black)["none", "none", 0]["accuracy"]
    assert by_cell(white)["first", "none", 0]["recall"] != by_cell(black)["first", "none", 0]["recall"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epochs = 3", "epoch = 3"), "offline.epoch: got an unknown key, wanted one of mode, epochs, batch_size"),
        (("train = 200", "train = 200\ntrigger = 5"), r"split.trigger: got 5 with \[offline\], wanted none"),
        (("train = 200", "stream = 200"), r"split.stream: got 200 with \[offline\], wanted none"),
        (("train = 200", "train = 200\nburn_in = 9"), r"split.burn_in: got 9 with \[offline\]"),
        (("probe = 50\n", ""), "split.probe: got nothing"),
        (("epochs = 3", "epochs = 0"), "offline.epochs: got 0"),
        (
            ("epochs = 3", 'attacker_models = [{name = "none"}]'),
            r"offline\.attacker_models\.0\.name: got 'none', wanted",
        ),
        (
            ("epochs = 3", 'attacker_models = [{name = "mlp"}, {name = "mlp", hidden = [0]}]'),
            r"offline\.attacker_models\.1\.hidden\.0: got 0, wanted greater",
        ),
        (("epochs = 3", 'attacker_models = [{name = "mlp", depth = 3}]'), r"attacker_models\.0\.depth: got an unknown"),
        (("epochs = 3", "attacker_models = [3]"), r"offline\.attacker_models\.0: got 3"),
        (
            ("[offline]", "[stream]\nbatch_size = 9\n[offline]"),
            r"stream: got settings of it with \[offline\], wanted none$",
        ),
        (("epochs = 3", 'mode = "tune"'), "offline.mode: got 'tune'"),
        (("[offline]", "[burn_in]\nepochs = 2\n[offline]"), 'burn_in: got one with offline.mode = "scratch"'),
        (("[offline]", "[schedule]\nsteps = 9\n[offline]"), r"schedule: got settings of it with \[offline\]"),
        (
            ('name = "label_flip"', 'name = "vanilla_trigger"\nvalidation_size = 20'),
            "vanilla_trigger poisons the trigger step",
        ),
        (('name = "label_flip"\npoison_fraction = 0.5', 'name = "alie"'), "attack.1.name: got 'alie'"),
        (('name = "clipping"', 'name = "krum"'), "defence.1.name: got 'krum'"),
        (("train = 200", "train = 2000"), "split.train = 2000"),
        (("train = 200", "train = 1"), "split.train: got 1 samples, wanted at least 2"),
    ],
)
def test_recipes_that_make_no_sense_are_told(
    change: tuple[str, str], message: str, recipe_of: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run_recipe(recipe_of(change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_does_not_go_together_is_told(own: str, recipe_of: Callable[..., Any], tmp_path: Path) -> None:
    def run(defence: str) -> None:
        run_recipe(recipe_of(more=f"[[defence]]\n{defence}\nlabel = 'own'\n"), tmp_path / "run")

    with pytest.raises(RecipeError, match="returned int, wanted a Guard, a DatasetDefence"):
        run(f'name = "{own}:nothing"')
    with pytest.raises(RecipeError, match="a training of its own beside other defences"):
        run(f'name = "{own}:trusted_alone"\nplus = ["clipping"]')


def test_a_cell_that_fails_is_told_and_the_others_go_on(
    own: str, recipe_of: Callable[..., Any], tmp_path: Path
) -> None:
    more = f"""
[[attack]]
name = "{own}:wants_class_99"
label = "no such class"

[[defence]]
name = "{own}:drop_some"
label = "fails at times"

[[defence]]
name = "{own}:drop_all"
label = "fails"
"""
    recipe = recipe_of(more=more)
    rows = by_cell(run_recipe(recipe, tmp_path / "run", jobs=1))
    run = RunDirectory(tmp_path / "run")
    failed = {(cell["attack"], cell["defence"], cell["seed"]): cell["reason"] for cell in run.failures(recipe)}
    assert len(rows) + len(failed) == 4 * 4 * 2
    assert run.results()["failed"] == run.failures(recipe)
    wrong = {key for key in failed if key[0] == "no such class"}
    assert len(wrong) == 8
    assert all("wanted in class 99, wanted 0 to 9" in failed[key] for key in wrong)
    by_defence = {key for key in failed if key not in wrong}
    assert {key[1] for key in by_defence} == {"fails", "fails at times"}
    assert all("got NaN, infinity, a negative weight or 0 alone" in failed[key] for key in by_defence)
    assert not any(key[1] == "fails" for key in rows)
    assert ("patch_backdoor", "fails at times", 0) in failed
    assert ("none", "fails at times", 0) in rows
    page = write_report(run).read_text()
    assert "What failed" in page
    assert "This run is not finished" not in page
    headings, lines = offline_table(summarize_offline(run.results()["rows"]), run.results()["failed"])
    accuracies = {(line[0], line[1]): line[headings.index("accuracy")] for line in lines}
    assert accuracies["none", "fails"] == accuracies["no such class", "none"] == "failed"
    assert accuracies["label_flip", "none"].startswith(str(int(rows["label_flip", "none", 0]["accuracy"]))[:1])
    # A failed cell is tried again, and counts as failed once.
    again = by_cell(run_recipe(recipe, tmp_path / "run", resume=True, jobs=1))
    assert without_times(list(again.values())) == without_times(list(rows.values()))
    assert len(run.failures(recipe)) == len(failed)


def test_the_command_says_what_failed(own: str, tmp_path: Path) -> None:
    whole = RECIPE.replace('[[defence]]\nname = "clipping"', f'[[defence]]\nname = "{own}:drop_all"\nlabel = "fails"')
    (tmp_path / "recipe.toml").write_text(whole)
    found = run_command("run", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run"), "--seeds", "1")
    assert found.returncode == 1
    assert "failed: none × fails, seed 0: weights: got NaN" in found.stderr
    assert "What failed" in (tmp_path / "run" / "report.html").read_text()
    (tmp_path / "recipe.toml").write_text(whole.replace('[[defence]]\nname = "none"\n', ""))
    nothing = run_command("run", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "none"), "--seeds", "1", "-q")
    assert nothing.returncode == 1
    assert "failed: label_flip × fails, seed 0" in nothing.stderr
    assert not (tmp_path / "none" / "report.html").exists()


@pytest.mark.parametrize(
    ("defence", "message"),
    [
        ("reject_on_negative_impact", "defence reject_on_negative_impact: .*got 16 trusted samples for calibration"),
        ("influence_sanitation", "defence influence_sanitation: .*wanted at least 2000 for alpha 0.001"),
    ],
)
def test_too_few_trusted_samples_are_told_before_any_training(
    defence: str, message: str, recipe_of: Callable[..., Any], tmp_path: Path
) -> None:
    more = f'[[defence]]\nname = "{defence}"\n' + ("alpha = 0.001\n" if defence.startswith("influence") else "")
    with pytest.raises(RecipeError, match=message):
        run_recipe(recipe_of(more=more), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_runs_of_two_kinds_are_not_compared() -> None:
    runs: Any = [("a", {"rows": [{"accuracy": 1.0}]}), ("b", {"rows": [{"acc_after": 1.0}]})]
    with pytest.raises(RunDirectoryError, match="wanted runs of one kind"):
        compared_quantity(runs)


def test_poison_is_the_same_for_every_defence_and_process(recipe_of: Callable[..., Any], tmp_path: Path) -> None:
    recipe = recipe_of(overrides=["seeds=[0]"])
    one, two = (run_recipe(recipe, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    assert without_times(one) == without_times(two)
    images = [RunDirectory(tmp_path / "1").cell("patch_backdoor", d, 0).images() for d in ("none", "clipping")]
    assert images[0] is not None
    assert images[1] is not None
    assert torch.equal(images[0]["train"], images[1]["train"])


TABLE = """
name = "tiny-table"
seeds = [0]

[data]
source = "FILE"
table = {TABLE}

[split]
validation = 20
probe = 20
test = 60

[model]
name = "sklearn"
estimator = "sklearn.naive_bayes:MultinomialNB"

[offline]

[[attack]]
name = "none"

[[attack]]
name = "label_flip"
poison_fraction = 0.4
source_class = 1

[[defence]]
name = "none"
"""


def messages(rows: int) -> str:
    words = {"ham": "lunch meet home work later", "spam": "win cash prize now free"}
    lines = []
    for i in range(rows):
        label = "spam" if i % 3 == 0 else "ham"
        own = words[label].split()
        lines.append(f"{label}\t{own[i % 5]} {own[(i + 2) % 5]} number{i % 7}")
    return "\n".join(lines) + "\n"


def test_a_table_of_texts(tmp_path: Path) -> None:
    (tmp_path / "sms.tsv").write_text(messages(240))
    text = TABLE.replace("FILE", str(tmp_path / "sms.tsv")).replace("TABLE", "label = 0, text = 1")
    (tmp_path / "recipe.toml").write_text(text)
    rows = by_cell(run_recipe(read_recipe(str(tmp_path / "recipe.toml")), tmp_path / "run"))
    assert rows["none", "none", 0]["accuracy"] > 95
    assert rows["none", "none", 0]["samples"] == 140
    assert 0 < rows["label_flip", "none", 0]["poisoned"] < 56
    assert "tiny-table" in write_report(RunDirectory(tmp_path / "run")).read_text()


def test_a_table_of_numbers_and_a_net(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 2
    x = torch.rand(300, 3, generator=g) + y[:, None]
    lines = [
        "a,b,c,kind",
        *(",".join(f"{v:.4f}" for v in row) + f",k{k}" for row, k in zip(x.tolist(), y.tolist(), strict=True)),
    ]
    (tmp_path / "numbers.csv").write_text("\n".join(lines))
    text = TABLE.replace("FILE", str(tmp_path / "numbers.csv")).replace("TABLE", 'label = "kind"')
    net = ('name = "sklearn"\nestimator = "sklearn.naive_bayes:MultinomialNB"', 'name = "mlp"\nhidden = [8]')
    (tmp_path / "recipe.toml").write_text(text.replace(*net))
    rows = by_cell(run_recipe(read_recipe(str(tmp_path / "recipe.toml")), tmp_path / "run"))
    assert rows["none", "none", 0]["accuracy"] > 90
    (tmp_path / "recipe.toml").write_text(text.replace(*net).replace('"kind"', '"kinds"'))
    with pytest.raises(DataError, match="kinds"):
        run_recipe(read_recipe(str(tmp_path / "recipe.toml")), tmp_path / "other")
    (tmp_path / "recipe.toml").write_text(text.replace(*net).replace("[offline]", "[offline]\nflip = true"))
    with pytest.raises(RecipeError, match="rows are no images"):
        read_recipe(str(tmp_path / "recipe.toml"))


def test_what_a_defence_writes_or_draws_is_its_own_cells_alone(
    own: str, recipe_of: Callable[..., Any], tmp_path: Path
) -> None:
    writes = f'[[defence]]\nname = "{own}:writes"\nlabel = "writes"\n'
    found = []
    for text in (writes, '[[defence]]\nname = "clipping"\nlabel = "before"\n' + writes):
        recipe = recipe_of(
            ('[[defence]]\nname = "none"\n\n[[defence]]\nname = "clipping"\n', text), overrides=["seeds=[0]"]
        )
        found.append(by_cell(run_recipe(recipe, tmp_path / str(len(found)), jobs=1)))
    assert found[0]["none", "writes", 0]["accuracy"] == found[1]["none", "writes", 0]["accuracy"]
    after = recipe_of(
        ('name = "none"\n\n[[defence]]\nname = "clipping"', f'name = "{own}:writes"\n\n[[defence]]\nname = "none"')
    )
    rows = by_cell(run_recipe(after, tmp_path / "after", jobs=1))
    assert rows["none", "none", 0]["accuracy"] > rows["none", f"{own}:writes", 0]["accuracy"] - 5
    assert rows["none", "none", 0]["accuracy"] > 30


def test_attacks_on_batches_keep_to_the_range_of_a_table(tmp_path: Path) -> None:
    lines = ["a,kind", *(f"{v / 10},{v % 2}" for v in range(300))]
    (tmp_path / "numbers.csv").write_text("\n".join(lines))
    text = TABLE.replace("FILE", str(tmp_path / "numbers.csv")).replace("TABLE", 'label = "kind", scale = "none"')
    (tmp_path / "recipe.toml").write_text(text)
    recipe = read_recipe(str(tmp_path / "recipe.toml"))
    context = seed_context(recipe, 0)
    crafted = craft(context, recipe.attack[1], None, recipe.defence[0])
    assert torch.equal(crafted.dataset.samples.x, context.training_set.x)
    assert 0 < int(crafted.dataset.poisoned.sum()) < 88
    (tmp_path / "numbers.csv").write_text("\n".join([*lines, "9,0"]))
    assert len(seed_context(recipe, 0).roles["train"]) == len(context.roles["train"]) + 1
