"""Burn-ins are shared by recipes that need the same one, and by no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taster.data import Images, ImageSet
from taster.experiments import Recipe, read_recipe
from taster.experiments.scenarios.burn_in_cache import cached_burn_in
from taster.experiments.scenarios.context import SeedContext

IMAGES = Images(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.arange(6))
OTHERS = Images(torch.ones(6, 1, 8, 8, dtype=torch.uint8), torch.arange(6))


class Trainer:
    """Counts how often it trains."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        return {
            "model": {},
            "optimizers": [],
            "snapshots": {},
            "made": self.times,
            "tensor": torch.full((2,), float(self.times)),
        }

    def burn_in(self, recipe: Recipe, images: Images = IMAGES, seed: int = 0) -> int:
        data = ImageSet("six", images, None, classes=10)
        context = SeedContext(recipe, data, {"burn_in": images}, seed, torch.device("cpu"))
        return cached_burn_in(context, self)["made"]


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASTER_CACHE", str(tmp_path / "cache"))


def test_what_determines_a_burn_in_tells_it_apart(tiny_recipe: Path) -> None:
    def recipe(*changes: str) -> Recipe:
        return read_recipe(str(tiny_recipe), list(changes))

    trainer = Trainer()
    assert trainer.burn_in(recipe()) == 1
    for same in (
        "attack.accumulative.epsilon=0.3",
        "schedule.steps=9",
        "stream.batch_size=7",
        "seeds=[4]",
        "name=other",
    ):
        assert trainer.burn_in(recipe(same)) == 1
    for other in ("model.hidden=[17]", "burn_in.learning_rate=0.3", "burn_in.keep_epochs=[2]", "compute.threads=2"):
        before = trainer.times
        assert trainer.burn_in(recipe(other)) == before + 1
    assert trainer.burn_in(recipe(), seed=1) == trainer.times
    assert trainer.burn_in(recipe(), OTHERS) == trainer.times
    assert trainer.times == 7
    assert trainer.burn_in(recipe()) == 1


def test_models_whose_code_can_change_are_not_kept(recipe_with: Callable[..., Path], tmp_path: Path) -> None:
    trainer = Trainer()
    own = read_recipe(str(recipe_with(('name = "mlp"', 'name = "taster.models:mlp"'))))
    assert [trainer.burn_in(own) for _ in range(2)] == [1, 2]


def test_a_damaged_one_is_made_again(tiny_recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer, recipe = Trainer(), read_recipe(str(tiny_recipe))
    trainer.burn_in(recipe)
    (kept,) = (tmp_path / "cache" / "burn-in").iterdir()
    kept.write_bytes(b"nonsense")
    assert trainer.burn_in(recipe) == 2
    assert "damaged" in caplog.text
    assert trainer.burn_in(recipe) == 2
