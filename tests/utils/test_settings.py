"""Settings are checked whoever calls."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

import pytest
import torch
from pydantic import BaseModel, Field, create_model
from tests.conftest import tiny_batch

from taster.attacks import CraftingSettings, PerturbationSettings, accumulative, random_noise
from taster.defences import clipping, probe_gate
from taster.errors import SettingError
from taster.experiments.recipes import registry
from taster.experiments.recipes.files import read_recipe
from taster.models import small_cnn
from taster.utils import settings
from taster.utils.settings import group_settings, settings_group, settings_model, validate_settings


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clipping(norm="L2"), "clipping: norm: got 'L2', wanted 'linf' or 'l2'"),
        (lambda: clipping(max_norm=-1.0), "clipping: max_norm: got -1.0, wanted greater than 0"),
        (lambda: clipping(max_norm=float("nan")), "clipping: max_norm: got nan"),
        (lambda: probe_gate(tiny_batch(), tolerance="2"), "probe_gate: tolerance: got '2'"),
        (
            lambda: random_noise(torch.Generator(), perturbation=PerturbationSettings(epsilon=-0.1)),
            "random_noise: epsilon: got -0.1",
        ),
        (
            lambda: accumulative(
                tiny_batch(),
                tiny_batch,
                torch.Generator(),
                crafting=CraftingSettings(pgd_steps=0),
                trigger_batch="odd",  # type: ignore[arg-type]
            ),
            r"pgd_steps: got 0.*trigger_batch: got 'odd'",
        ),
        (lambda: small_cnn((1, 8, 8), 10, norm="layer"), "small_cnn: norm: got 'layer'"),
    ],
)
def test_a_setting_that_is_not_allowed_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        call()


def test_an_unknown_setting_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="strength"):
        clipping(strength=3)


@settings_group
class Shared:
    """Settings of several functions."""

    radius: Annotated[float, Field(ge=0)] = 0.1
    steps: int = 3


@validate_settings
def grouped(x: int, *, shared: Shared = Shared(steps=7), own: str = "a") -> tuple[int, Shared, str]:  # noqa: B008
    return x, shared, own


@validate_settings
def needs_group(*, shared: Shared) -> Shared:
    return shared


def test_a_group_is_plain_keys_in_a_recipe_and_one_object_in_python() -> None:
    assert list(settings_model(grouped).model_fields) == ["radius", "steps", "own"]
    assert settings_model(grouped)().model_dump() == {"radius": 0.1, "steps": 7, "own": "a"}
    assert grouped(1, **group_settings(grouped, {"radius": 0.5, "own": "b"})) == (1, Shared(radius=0.5, steps=7), "b")
    assert grouped(1, **group_settings(grouped, {})) == (1, Shared(steps=7), "a")
    assert needs_group(**group_settings(needs_group, {"steps": 1})) == Shared(steps=1)
    assert grouped(1, shared=Shared(radius=2.0)) == (1, Shared(radius=2.0), "a")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grouped(1, shared=Shared(radius=-1.0), own=2), "grouped: radius: got -1.0.*own: got 2"),
        (lambda: grouped(1, shared={"radius": 1.0}), "grouped: shared: got {'radius': 1.0}, wanted a Shared"),
        (lambda: grouped(1, radius=1.0), r"radius: got it as an argument, wanted it in shared=Shared\(radius=...\)"),
    ],
)
def test_a_group_is_validated_like_single_settings(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        call()


def test_two_settings_of_one_name_are_refused() -> None:
    def twice(*, shared: Shared, steps: int = 1) -> None: ...

    with pytest.raises(TypeError, match="several settings are called steps"):
        settings_model(twice)


def test_reading_a_recipe_builds_each_settings_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: Counter[str] = Counter()

    def counting(name: str, **options: Any) -> type[BaseModel]:
        built[name] += 1
        return create_model(name, **options)

    # As in a new process.
    monkeypatch.setattr(settings, "_read_settings", functools.cache(settings._read_settings.__wrapped__))
    monkeypatch.setattr(registry, "_shipped", functools.cache(registry._shipped.__wrapped__))
    monkeypatch.setattr(settings, "create_model", counting)
    read_recipe("pang-table-1")
    assert built["accumulative"] == 1
    assert built.pop("none") == 2  # an attack and a defence are called so
    assert set(built.values()) == {1}
    before = built.total()
    read_recipe("pang-table-1")
    assert built.total() == before
