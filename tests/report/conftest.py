"""A finished run with its page, and rows of results."""

from __future__ import annotations

import pytest
from tests.conftest import TINY_RECIPE

from taster.experiments import RunDirectory, read_recipe, run_recipe
from taster.report import write_report


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The tiny recipe with two scores, reported."""
    folder = tmp_path_factory.mktemp("report")
    small = '[[attack]]\nname = "accumulative"\nlabel = "small"\nepsilon = 0.1\npgd_steps = 2\nvalidation_size = 40\n'
    scores = "".join(
        f'[[score]]\nname = "memorization_discrepancy"\nlabel = "s{n}"\nreference_model = "epoch-{n}"\n' for n in (1, 2)
    )
    published = '[[published]]\nattack = "small"\nscore = "s1"\nclean = 0.25\n'
    (folder / "tiny.toml").write_text(
        TINY_RECIPE.replace('"tiny"', '"tiny"\ndescription = "<tiny> & co"') + small + scores + published
    )
    recipe = read_recipe(str(folder / "tiny.toml"), ["burn_in.keep_epochs=[1,2]"])
    run_recipe(recipe, folder / "run", jobs=1)
    write_report(RunDirectory(folder / "run"))
    return RunDirectory(folder / "run")


def row(drop: float, seed: int = 0, **changes: object) -> dict[str, object]:
    """A row of results.json."""
    return {
        "attack": "a", "defence": "d", "seed": seed, "acc_start": 90.0, "acc_before": 90.0, "acc_after": 90.0 + drop,
        "drop": drop, "steps": 2, "stopped_by": "steps", "rejected": 0, "seconds": 1.0, "cost": 1.5, **changes,
    }  # fmt: skip
