"""Recipes: complete, typed, and every fault told at once."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import TINY_RECIPE

from taster import Batch
from taster.data import Images, ImageSet
from taster.errors import RecipeError
from taster.experiments import parse_recipe, read_recipe, shipped_recipes
from taster.experiments.recipes.catalogue import catalogue
from taster.experiments.recipes.registry import find_factory
from taster.experiments.scenarios.builders import make_guard
from taster.experiments.scenarios.context import SeedContext


def faults(*changes: tuple[str, str], extra: str = "") -> str:
    text = TINY_RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    with pytest.raises(RecipeError) as caught:
        parse_recipe(tomllib.loads(text + extra))
    return str(caught.value)


@pytest.mark.parametrize("name", list(shipped_recipes()))
def test_shipped_recipes_are_sound_and_come_back_from_their_own_toml(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.source
    path = tmp_path / "again.toml"
    path.write_text(recipe.to_toml())
    assert read_recipe(str(path)) == recipe


def test_defaults_are_filled_in_down_to_the_functions_settings() -> None:
    recipe = parse_recipe(tomllib.loads(TINY_RECIPE))
    raw = recipe.to_dict()
    assert raw["attack"][1]["normalize"] == "per_tensor"
    assert raw["attack"][0]["label"] == "none"
    assert raw["defence"][1]["tolerance"] == 1.0
    assert raw["burn_in"]["momentum"] == 0.9
    assert raw["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            ("hidden = [16]", "hidden = [16]\ndepth = 3"),
            ["model.depth: got an unknown key, wanted one of hidden, dropout"],
        ),
        (("epochs = 2", "epoch = 2"), ["burn_in.epoch: got an unknown key, wanted one of epochs, batch_size"]),
        (("epochs = 2", 'epochs = "two"'), ["burn_in.epochs: got 'two', wanted a valid integer"]),
        (("steps = 2", "steps = 0"), ["schedule.steps: got 0, wanted greater than or equal to 1"]),
        (("epsilon = 0.2", "epsilon = 1.5"), ["attack.1.epsilon: got 1.5, wanted at most 1, the range of the data"]),
        (
            ("epsilon = 0.2", "poison_fraction = 1.2"),
            ["attack.1.poison_fraction: got 1.2, wanted less than or equal to 1"],
        ),
        (("pgd_steps = 2", "pgd_steps = 0"), ["attack.1.pgd_steps: got 0"]),
        (
            ("validation_size = 40", "validation_size = 70"),
            ["attack.1.validation_size: got 70, wanted at most split.validation = 60"],
        ),
        (
            ('name = "none"\n[[attack]]', 'name = "direct_gradient"\ngroup_size = 61\n[[attack]]'),
            ["attack.0.group_size: got 61, wanted at most split.validation = 60"],
        ),
        (
            ('name = "none"\n[[attack]]', 'name = "generative"\npretraining_size = 70\ngroup_size = 9\n[[attack]]'),
            ["attack.0.pretraining_size: got 70, wanted at most split.validation = 60"],
        ),
        (("seeds = [0, 1]", "seeds = [1, 1]"), ["seeds: got [1] more than once"]),
        (("seeds = [0, 1]", "seeds = []"), ["seeds: got [], wanted"]),
        (("probe = 50\n", ""), ["split.probe: got nothing, wanted a number of samples"]),
        (('name = "mlp"', 'name = "mpl"'), ["model.name: got 'mpl', wanted one of mlp, lenet, small_cnn"]),
        (('name = "probe_gate"', 'name = "none"'), ["defence: got the label 'none' 2 times"]),
        (('name = "probe_gate"', 'nam = "probe_gate"'), ["defence.1.name: got nothing"]),
        (
            ("keep_epochs = [1]", "keep_epochs = [1, 5]"),
            ["burn_in.keep_epochs: got [5], wanted at most burn_in.epochs = 2"],
        ),
        (("steps = 2", "steps = 2\nmargin = 1.0"), ["schedule.margin: got a margin without schedule.accuracy_floor"]),
        (("epochs = 2", 'epochs = 2\ncheckpoint = "x"'), ["wanted epochs = 0 with burn_in.checkpoint"]),
        (
            ("epochs = 2\nbatch_size = 20\nkeep_epochs = [1]", "epochs = 0"),
            ["burn_in.epochs: got 0 and no burn_in.checkpoint"],
        ),
        (
            ("epochs = 2", 'epochs = 2\nearlier = {past = "x"}'),
            ["burn_in.earlier: got files without burn_in.checkpoint"],
        ),
        (
            ("epochs = 2", "epochs = 2\nsplit_seed = 0"),
            ["burn_in.split_seed: got one without burn_in.checkpoint"],
        ),
        (
            ('name = "probe_gate"', 'name = "dsc"\nreference_model = "epoch-2"'),
            [
                "defence.1.reference_model: got 'epoch-2', wanted a label of burn_in.keep_epochs or burn_in.earlier "
                "(epoch-1)"
            ],
        ),
        (
            ("pgd_steps = 2", "pgd_steps = 2\nsurrogate = 3"),
            ["attack.1.surrogate: got 3 steps back, wanted history.capacity above 0"],
        ),
        (
            (
                'name = "probe_gate"',
                'name = "probe_gate"\n[[published]]\nattack = "a"\ndefence = "none"\n'
                "before = 1.0\nafter = 1.0\ndrop = 0.0",
            ),
            ["published.0.attack: got 'a', wanted a label: none, accumulative"],
        ),
        (("burn_in = 200", "burn_in = 10"), ["burn_in.batch_size: got 20, wanted at most split.burn_in = 10"]),
        (("[split]", "[split]\nstream = 10"), ["stream.batch_size: got 20, wanted at most split.stream = 10"]),
        (('[model]\nname = "mlp"\nhidden = [16]\n', ""), ["model: got nothing"]),
    ],
)
def test_each_fault_is_told_with_its_key(change: tuple[str, str], lines: list[str]) -> None:
    message = faults(change)
    for line in lines:
        assert line in message
    assert "1 fault" in message


def test_several_faults_are_told_at_once() -> None:
    message = faults(("epochs = 2", "epochs = -1"), ("epsilon = 0.2", "epsilon = 7"), extra="[nonsense]\na = 1\n")
    assert "3 faults" in message
    for key in ("burn_in.epochs", "attack.1.epsilon", "nonsense"):
        assert key in message


def test_seeds_can_be_a_number() -> None:
    assert parse_recipe(tomllib.loads(TINY_RECIPE.replace("[0, 1]", "4"))).seeds == [0, 1, 2, 3]


def test_values_are_set_by_path(tiny_recipe: Path) -> None:
    recipe = read_recipe(
        str(tiny_recipe),
        [
            "burn_in.epochs=5",
            "attack.accumulative.epsilon=0.1",
            "attack.1.norm=l2",
            "stream.crop = 2",
            "data.source=digits",
        ],
    )
    assert recipe.burn_in.epochs == 5
    assert recipe.attack[1].settings["epsilon"] == 0.1
    assert recipe.attack[1].settings["norm"] == "l2"
    assert recipe.stream.crop == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "wanted key=value"),
        ("=3", "wanted key=value"),
        ("attack.nobody.epsilon=1", "wanted an entry by number or label: 0 (none), 1 (accumulative)"),
        ("attack.1=3", "wanted a key of the entry"),
        ("name.x=3", "has no keys below it"),
        ("burn_in.epoks=3", "burn_in.epoks: got an unknown key"),
    ],
)
def test_changes_that_make_no_sense_are_told(change: str, message: str, tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        read_recipe(str(tiny_recipe), [change])


def test_labels_come_before_names_and_names_must_be_the_only_one() -> None:
    recipe = read_recipe("quickstart", ["attack.accumulative.epsilon=0.1", "attack.3.epsilon=0.3"])
    changed = {entry.label: entry.settings.get("epsilon") for entry in recipe.attack}
    assert (changed["accumulative"], changed["accumulative λ=0"], changed["accumulative clean"]) == (0.1, 0.3, 0.2)
    recipe = read_recipe("quickstart", ["attack.5.label=strong"])
    assert recipe.attack[5].label == "strong"
    with pytest.raises(RecipeError, match="wanted an entry by number or label"):
        read_recipe("quickstart", ["attack.5.label=strong", "attack.accumulative.epsilon=0.1"])


def test_a_recipe_builds_on_others(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_RECIPE)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.toml").write_text(
        'extends = ["../tiny.toml"]\nname = "more"\n[model]\nname = "small_cnn"\n[burn_in]\nepochs = 4\n'
    )
    (tmp_path / "sub" / "last.toml").write_text(
        'extends = "more.toml"\nname = "last"\n[burn_in]\nflip = true\n[[defence]]\nname = "none"\n'
    )
    recipe = read_recipe(str(tmp_path / "sub" / "last.toml"), ["burn_in.epochs=5"])
    assert recipe.name == "last"
    assert (recipe.burn_in.epochs, recipe.burn_in.flip, recipe.burn_in.batch_size) == (5, True, 20)
    assert recipe.model.name == "small_cnn"  # and the settings of the model that it replaces are gone
    assert "hidden" not in recipe.model.settings
    assert [entry.name for entry in recipe.defence] == ["none"]  # lists are replaced
    assert [entry.name for entry in recipe.attack] == ["none", "accumulative"]
    assert "extends" not in recipe.to_dict()


def test_a_recipe_builds_on_shipped_ones_and_on_their_parts() -> None:
    small, paper = read_recipe("pang-table-1-small"), read_recipe("pang-table-1")
    assert [entry.label for entry in small.attack] == [entry.label for entry in paper.attack]
    assert small.published == paper.published
    assert (small.model.name, paper.model.name) == ("small_cnn", "resnet18")
    assert {entry.settings.get("pgd_steps", 10) for entry in small.attack} == {10}
    assert "cifar10-small" not in shipped_recipes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "self.toml"', "extends: self.toml leads back to itself"),
        ('extends = "nowhere"', "extends: nowhere: no such recipe"),
        ("extends = 3", "extends: got 3, wanted the name or file of a recipe"),
    ],
)
def test_bases_that_make_no_sense_are_told(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "self.toml").write_text(text)
    with pytest.raises(RecipeError, match=re.escape(message)):
        read_recipe(str(tmp_path / "self.toml"))


def test_defaults_lie_under_the_entries_that_have_the_setting() -> None:
    recipe = parse_recipe(tomllib.loads(TINY_RECIPE + "[defaults.attack]\nepsilon = 0.3\npoison_fraction = 0.5\n"))
    assert recipe.attack[0].settings == {}
    assert (recipe.attack[1].settings["epsilon"], recipe.attack[1].settings["poison_fraction"]) == (0.2, 0.5)
    for text, message in (
        ("[defaults.attack]\nepsilom = 0.3\n", "defaults.attack.epsilom: got a setting that no attack has"),
        ("[defaults.model]\nwidth = 3\n", "defaults.model: got an unknown key, wanted one of attack, defence, score"),
        ("[defaults]\nattack = 3\n", "defaults: got {'attack': 3}, wanted tables"),
    ):
        assert message in faults(extra=text)


def test_scores_and_surrogates_are_checked() -> None:
    score = '[[score]]\nname = "memorization_discrepancy"\nreference_model = "epoch-1"\n'
    recipe = parse_recipe(tomllib.loads(TINY_RECIPE + score))
    assert recipe.score[0].settings["divergence"] == "kl"
    assert "score.0.reference_model: got 'epoch-7', wanted a label" in faults(extra=score.replace("epoch-1", "epoch-7"))
    assert "score.0.compared_model: got 'x', wanted a label" in faults(extra=score + 'compared_model = "x"\n')
    assert "score: got the label 'memorization_discrepancy' 2 times" in faults(extra=score + score)
    own = '[[surrogate]]\nlabel = "own"\nmodel = {name = "mlp", hidden = [8]}\n'
    crafted = ("pgd_steps = 2", 'pgd_steps = 2\nsurrogate = "own"')
    recipe = parse_recipe(tomllib.loads(TINY_RECIPE.replace(*crafted) + own))
    assert recipe.surrogate[0].model is not None
    assert recipe.surrogate[0].model.settings == {"hidden": [8], "dropout": 0.0}
    assert "attack.1.surrogate: got 'own', wanted a label of" in faults(crafted)
    assert "surrogate.0.model.width: got an unknown key" in faults(extra=own.replace("hidden = [8]", "width = 3"))
    evading = ("pgd_steps = 2", 'pgd_steps = 2\nsurrogate = "own"\nevade_reference = "epoch-1"')
    assert "attack.1.evade_reference: got 'epoch-1' with a surrogate that is no earlier model" in faults(
        evading, extra=own
    )
    assert "labels of the burn-in's snapshots" in faults(extra=own.replace('"own"', '"epoch-1"'))
    trained = ("epochs = 2\nbatch_size = 20\nkeep_epochs = [1]", 'checkpoint = "x"')
    assert "surrogate: got one with burn_in.checkpoint" in faults(trained, extra=own)


def test_a_published_figure_is_of_a_defence_or_of_a_score() -> None:
    of_score = '[[published]]\nattack = "none"\nscore = "memorization_discrepancy"\nclean = 0.3\n'
    score = '[[score]]\nname = "memorization_discrepancy"\nreference_model = "epoch-1"\n'
    assert parse_recipe(tomllib.loads(TINY_RECIPE + score + of_score)).published[0].clean == 0.3
    assert "published.0.score: got 'memorization_discrepancy', wanted a label: none" in faults(extra=of_score)
    wrong = of_score.replace("clean", "drop")
    assert "wanted no drop of a score" in faults(extra=score + wrong)
    of_defence = '[[published]]\nattack = "none"\ndefence = "none"\n'
    took = parse_recipe(tomllib.loads(TINY_RECIPE + of_defence + "seconds = 3.88\nloss = 13.67\n")).published[0]
    assert (took.seconds, took.loss) == (3.88, 13.67)
    assert "wanted no loss of a score" in faults(extra=score + of_score.replace("clean", "loss"))
    assert "wanted no auc of a defence" in faults(extra=of_defence + "auc = 1.0\n")
    assert "published: got none and none 2 times" in faults(extra=2 * (of_defence + "after = 1.0\n"))
    assert "wanted a defence or a score, and not both" in faults(extra='[[published]]\nattack = "none"\nafter = 1.0\n')


def test_a_checkpoint_needs_no_epochs() -> None:
    text = TINY_RECIPE.replace("epochs = 2\nbatch_size = 20\nkeep_epochs = [1]", 'checkpoint = "w.safetensors"')
    assert parse_recipe(tomllib.loads(text)).burn_in.epochs == 0


def test_files_that_are_no_recipes_are_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe; there are"):
        read_recipe("quickstrat")
    (tmp_path / "x.toml").write_text("a = = 1")
    with pytest.raises(RecipeError, match="not TOML"):
        read_recipe(str(tmp_path / "x.toml"))
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(str(tmp_path))


def test_functions_of_the_users_own_are_typed_by_their_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_defences.py").write_text(
        "from taster import Guard\n"
        "def mine(probe, *, strength: int = 3) -> Guard:\n    return Guard()\n"
        "def odd(probe, secret, *, strength: int = 3) -> Guard:\n    return Guard()\n"
    )
    monkeypatch.chdir(tmp_path)
    recipe = parse_recipe(tomllib.loads(TINY_RECIPE.replace('"probe_gate"', '"my_defences:mine"')))
    assert recipe.defence[1].settings == {"strength": 3}
    message = faults(('name = "probe_gate"', 'name = "my_defences:mine"\nstrength = "x"'))
    assert "defence.1.strength: got 'x', wanted a valid integer" in message
    assert "positional parameter 'secret'" in faults(('name = "probe_gate"', 'name = "my_defences:odd"'))


def test_everything_listed_says_what_it_is_and_where_it_comes_from() -> None:
    entries = catalogue()
    assert list(entries) == ["attacks", "defences", "scores", "models", "recipes"]
    for members in entries.values():
        for member in members:
            assert member["name"]
            assert len(member["summary"]) > 20
            assert len(member["source"]) > 5


def test_a_defence_may_have_others_beside_it(tmp_path: Path) -> None:
    raw = tomllib.loads(TINY_RECIPE)
    raw["defence"] = [
        {"name": "clipping", "label": "both", "max_norm": 2.0, "plus": ["probe_gate", "retry_low_score_half"]}
    ]
    recipe = parse_recipe(raw)
    probe = Batch(torch.rand(50, 1, 8, 8), torch.randint(0, 10, (50,)))
    images = Images((255 * probe.x).byte(), probe.y)
    context = SeedContext(recipe, ImageSet("one", images, None, classes=10), {}, 0, torch.device("cpu"))
    guard = make_guard(context, recipe.defence[0], probe)
    assert repr(guard) == "Guard(transforms=[clip], gates=[probe_gate], salvage=[retry_low_score_half])"
    again = parse_recipe(tomllib.loads(recipe.to_toml()))
    assert again == recipe


def test_what_is_replayed_are_the_samples_of_the_burn_in() -> None:
    raw = tomllib.loads(TINY_RECIPE)
    raw["defence"] = [{"name": "probe_gate", "label": "replays", "plus": ["trusted_replay"]}]
    recipe = parse_recipe(raw)
    probe, trained = (Batch(torch.rand(50, 1, 8, 8), torch.randint(0, 10, (50,))) for _ in range(2))
    images = Images((255 * trained.x).byte(), trained.y)
    context = SeedContext(
        recipe, ImageSet("one", images, None, classes=10), {"burn_in": images}, 0, torch.device("cpu")
    )
    (stage,) = make_guard(context, recipe.defence[0], probe).salvage
    assert torch.equal(stage.samples.y, trained.y)  # type: ignore[attr-defined]
    assert not torch.equal(stage.samples.x, probe.x)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("plus", "said"),
    [
        (["no_such"], "defence.0.plus.0.name: got 'no_such'"),
        (["dsc"], "defence.0.plus.0.reference_model: got nothing"),
        ("clipping", "defence.0.plus: got 'clipping'"),
    ],
)
def test_what_cannot_stand_beside_a_defence_is_told(plus: object, said: str) -> None:
    raw = tomllib.loads(TINY_RECIPE)
    raw["defence"] = [{"name": "none", "plus": plus}]
    with pytest.raises(RecipeError, match=re.escape(said)):
        parse_recipe(raw)


def test_the_attackers_models_are_shown_with_their_defaults() -> None:
    recipe = read_recipe("offline-digits", ['offline.attacker_models=[{name = "mlp"}]'])
    assert recipe.to_dict()["offline"]["attacker_models"] == [{"name": "mlp", "dropout": 0.0}]
    assert parse_recipe(recipe.to_dict()) == recipe


def test_an_offline_recipe_is_shown_without_the_sections_of_streams() -> None:
    shown = read_recipe("offline-digits").to_dict()
    assert not {"stream", "schedule", "history", "score", "surrogate", "burn_in"} & shown.keys()
    assert parse_recipe(shown) == read_recipe("offline-digits")
    online = read_recipe("quickstart").to_dict()
    assert {"stream", "schedule", "history", "burn_in"} <= online.keys()


@pytest.mark.parametrize(
    ("kind", "name", "serves"),
    [
        ("attack", "label_flip", ("streams", "training sets")),
        ("attack", "accumulative", ("streams",)),
        ("attack", "guard_aware", ("streams",)),
        ("attack", "alie", ("federations",)),
        ("attack", "svm_poisoning", ("training sets",)),
        ("defence", "guard", ("streams", "training sets")),
        ("defence", "temporal_aggregation_stream", ("streams",)),
        ("defence", "trimmed_loss", ("training sets",)),
        ("model", "mlp", ()),
    ],
)
def test_what_an_entry_serves_for(kind: Any, name: str, serves: tuple[str, ...]) -> None:
    assert find_factory(kind, name).serves == serves
