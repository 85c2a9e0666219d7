"""What a cell of the grid does around a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tests.conftest import run_recipe, tiny_learner

from taster import Guard, Phase, load_state
from taster.attacks import Backdoor, OnlineAttack
from taster.attacks.triggers import patch_trigger
from taster.experiments import read_recipe
from taster.experiments.running.tasks import seed_context
from taster.experiments.scenarios.builders import make_learner
from taster.experiments.scenarios.online import weight_momentum


def test_weight_momentum_lasts_as_long_as_the_phase() -> None:
    learner = tiny_learner()
    (group,) = learner.optimizer.param_groups
    for phase, expected in ((Phase.DORMANT, 0.9), (Phase.ACCUMULATE, 1.1), (Phase.TRIGGER, 0.9)):
        with weight_momentum(learner, OnlineAttack(weight_momentum=1.1), phase):
            assert group["momentum"] == expected
        assert group["momentum"] == 0.9
    with weight_momentum(learner, OnlineAttack(), Phase.ACCUMULATE):
        assert group["momentum"] == 0.9


def test_rows_of_backdoors_have_their_success_and_others_do_not(
    recipe_with: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe_with()
    extra = '[[attack]]\nname = "patch_backdoor"\nsize = 2\npoison_fraction = 0.25\n'
    path.write_text(path.read_text() + extra)
    recipe = read_recipe(str(path), ["seeds=[0]", "schedule.steps=30", "stream.learning_rate=0.2"])
    rows = run_recipe(recipe, tmp_path / "run")
    by_attack = {row["attack"]: row for row in rows if row["defence"] == "none"}
    assert "asr" not in by_attack["none"]
    assert "asr" not in by_attack["accumulative"]
    row = by_attack["patch_backdoor"]
    assert row["asr"] > row["asr_start"] + 50
    # The control is the burnt-in model's, on the test split.
    context = seed_context(recipe, 0)
    burnt_in = load_state(tmp_path / "run" / "burn_in" / "seed-0.safetensors")
    view = make_learner(context, burnt_in, Guard()).view()
    planted = Backdoor(lambda x: patch_trigger(x, size=2), 0)
    assert row["asr_start"] == planted.success_rate(view, context.batches["test"])
    test = context.batches["test"]
    others = test.x[test.y != 0]
    by_hand = view.outputs(patch_trigger(others, size=2)).argmax(1) == 0
    assert row["asr_start"] == 100 * float(torch.as_tensor(by_hand).double().mean())
