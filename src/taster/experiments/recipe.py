"""A recipe: everything that decides what a run computes, typed, from TOML."""

from __future__ import annotations

import tomllib
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from taster.calculus import WAYS, Way
from taster.data import Role
from taster.errors import RecipeError, SettingError
from taster.experiments.changes import apply_change
from taster.experiments.factory import Factory, find_factory
from taster.functional import Precision
from taster.settings import faults as fault_lines

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


def _way(text: str) -> str:
    try:
        return text if text in ("fast", "exact") else str(Way.parse(text))
    except SettingError:
        raise ValueError(f"fast, exact, or a way: {WAYS}") from None


class Section(BaseModel):
    """Base of all sections: unknown keys and wrong types are faults."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Named(BaseModel):
    """A section that names a function; further keys are that function's settings."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """The function's settings."""
        return dict(self.__pydantic_extra__ or {})


class Entry(Named):
    """One attack or defence of the grid. `label` tells entries of the same name apart; by default it is the name."""

    label: Annotated[str, Field(min_length=1)]


class Published(Section):
    """What a paper reports for an entry of the grid, in the words of the results: accuracies in %, the drop in points;
    `spread` is the deviation of the drop, where the paper gives one."""

    attack: str
    defence: str
    before: float
    after: float
    drop: float
    spread: float | None = None


class Data(Section):
    """Where samples come from; see `taster.data.load_images`."""

    source: str = "digits"
    image: str | None = None
    label: str | None = None


class Split(Section):
    """Samples of each role. `stream` takes what is left where it is not given, `test` all of the set's test split."""

    burn_in: Count
    stream: Count | None = None
    trigger: Count
    validation: Count
    monitor: Count
    probe: Count
    test: Count | None = None

    def sizes(self) -> dict[Role, int | None]:
        """By role."""
        return self.model_dump()  # type: ignore[return-value]


class BurnIn(Section):
    """Training before anybody attacks: here for so many epochs, or elsewhere, with weights from a checkpoint.

    `keep_epochs` are kept as snapshots labelled "epoch-N"; with a checkpoint, `earlier` gives those of the past, a file
    for each label.
    """

    epochs: Annotated[int, Field(ge=0)] = 10
    batch_size: Count = 100
    learning_rate: Rate = 0.1
    momentum: Annotated[float, Field(ge=0)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    crop: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    checkpoint: str | None = None
    keep_epochs: list[Count] = []
    earlier: dict[str, str] = {}

    @property
    def labels(self) -> list[str]:
        """Of the snapshots that it keeps."""
        return [f"epoch-{epoch}" for epoch in self.keep_epochs] + list(self.earlier)

    @model_validator(mode="before")
    @classmethod
    def _no_epochs_of_trained_weights(cls, raw: Any) -> Any:
        return {"epochs": 0, **raw} if isinstance(raw, dict) and raw.get("checkpoint") is not None else raw


class StreamSection(Section):
    """Learning after release. `learning_rate` is that of the burn-in where it is not given; `fresh_optimizer` starts
    without the burn-in's momentum."""

    batch_size: Count = 100
    learning_rate: Rate | None = None
    fresh_optimizer: bool = False
    crop: Annotated[int, Field(ge=0)] = 0
    flip: bool = False


class ScheduleSection(Section):
    """When attacks strike: after `steps` accumulative steps at the latest, earlier by the other conditions."""

    steps: Count = 40
    dormant: Annotated[int, Field(ge=0)] = 0
    accuracy_floor: Annotated[float, Field(ge=0, le=100)] | None = None
    margin: Annotated[float, Field(ge=0, le=100)] = 0.0
    loss_amplification: Annotated[float, Field(gt=1)] | None = None


class HistorySection(Section):
    """Snapshots the learner keeps for stages that rewind or look back; 0 keeps none but the burn-in's epochs."""

    capacity: Annotated[int, Field(ge=0)] = 0
    every: Count = 1


class Compute(Section):
    """How it is computed. The first run decides what is left open of `device`, `threads` and `derivatives` and keeps
    it, as results depend on them.

    `derivatives` is how attacks compute theirs: a way by its name, see `taster.calculus.Way`; or "fast" or "exact",
    which try the ways there are on this machine and keep the fastest (of automatic differentiation in float32, for
    "exact").
    The default is a way by its name, so that a recipe by itself gives the same bits every time.
    """

    device: str = "auto"
    precision: Precision = "float32"
    channels_last: bool = False
    threads: Count | None = None
    derivatives: Annotated[str, AfterValidator(_way)] = "held_difference"
    test_every: Count = 1

    @property
    def way(self) -> Way | None:
        """The way decided on, if one is."""
        return None if self.derivatives in ("fast", "exact") else Way.parse(self.derivatives)


def _seeds(value: Any) -> Any:
    return list(range(value)) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else value


def _labelled(value: Any) -> Any:
    """Fills in labels before validation, so that an entry without a name is told as such."""
    if isinstance(value, list):
        return [{**e, "label": e.get("label", e.get("name", "?"))} if isinstance(e, dict) else e for e in value]
    return value


class Recipe(Section):
    """A grid of attacks × defences × seeds on one model, data set and stream."""

    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    source: str = ""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), BeforeValidator(_seeds)] = [0, 1, 2]
    data: Data = Data()
    split: Split
    model: Named
    burn_in: BurnIn = BurnIn()
    stream: StreamSection = StreamSection()
    schedule: ScheduleSection = ScheduleSection()
    history: HistorySection = HistorySection()
    compute: Compute = Compute()
    attack: Annotated[list[Entry], Field(min_length=1), BeforeValidator(_labelled)]
    defence: Annotated[list[Entry], Field(min_length=1), BeforeValidator(_labelled)]
    published: list[Published] = []

    def to_dict(self) -> dict[str, Any]:
        """Plain values, defaults filled in, those that are None left out as TOML has no null."""
        return self.model_dump(exclude_none=True)

    def to_toml(self) -> str:
        """The complete recipe as TOML."""
        return tomli_w.dumps(self.to_dict())

    def factory(self, kind: Literal["attack", "defence", "model"], entry: Named) -> Factory:
        """The function that an entry names."""
        return find_factory(kind, entry.name)

    def computed_with(self, **decided: Any) -> Recipe:
        """The same recipe with keys of `[compute]` decided that were left open."""
        return self.model_copy(update={"compute": self.compute.model_copy(update=decided)})


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with taster, by name."""
    folder = Path(str(resources.files("taster.experiments") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_recipe(name: str, changes: list[str] | None = None) -> Recipe:
    """A recipe by the name of a shipped one or the path of a TOML file, with `key=value` changes applied.

    Raises:
        RecipeError: with every fault, one a line.
    """
    path = shipped_recipes().get(name, Path(name))
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(
            f"{name}: no such recipe; there are {', '.join(shipped_recipes())}, or give a TOML file"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{name}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name}: not TOML: {error}") from error
    for change in changes or []:
        apply_change(raw, change)
    return parse_recipe(raw, name)


def parse_recipe(raw: dict[str, Any], where: str = "recipe") -> Recipe:
    """Checks a recipe and fills in every default.

    Raises:
        RecipeError: with every fault, one a line: the key's path, what was got and what was wanted.
    """
    faults: list[str] = []
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        faults += fault_lines(error, "", Recipe)
    filled = _check_entries(raw, faults)
    if recipe is not None and not faults:
        recipe = Recipe.model_validate({**recipe.to_dict(), **filled})
        faults += _impossible(recipe)
    if faults or recipe is None:
        raise RecipeError(
            f"{where} has {len(faults)} fault{'s' if len(faults) > 1 else ''}:\n" + "\n".join(f"  {f}" for f in faults)
        )
    return recipe


def _check_entries(raw: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    """The entries with their functions' settings checked and defaults filled in."""
    filled: dict[str, Any] = {}
    for kind in ("model", "attack", "defence"):
        entries = raw.get(kind)
        if kind == "model":
            entries = [entries]
        if not isinstance(entries, list):
            continue
        done = []
        for i, entry in enumerate(entries):
            path = kind if kind == "model" else f"{kind}.{i}"
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                continue  # already a fault of the section
            try:
                factory = find_factory(kind, entry["name"])
            except RecipeError as error:
                faults.append(f"{path}.name: {error}")
                continue
            settings = {k: v for k, v in entry.items() if k not in ("name", "label")}
            try:
                checked = factory.settings.model_validate(settings).model_dump(exclude_none=True)
            except ValidationError as error:
                faults += fault_lines(error, f"{path}.", factory.settings)
                continue
            if checked.get("norm") == "linf" and checked.get("epsilon", 0) > 1:
                faults.append(f"{path}.epsilon: got {checked['epsilon']}, wanted at most 1, the range of the data")
            label = {} if kind == "model" else {"label": entry.get("label", entry["name"])}
            done.append({"name": entry["name"], **label, **checked})
        filled[kind] = done[0] if kind == "model" and done else done
    return filled


def _impossible(recipe: Recipe) -> list[str]:
    """Faults of several keys together."""
    faults: list[str] = []
    split, stream = recipe.split, recipe.stream
    if split.stream is not None and stream.batch_size > split.stream:
        faults.append(f"stream.batch_size: got {stream.batch_size}, wanted at most split.stream = {split.stream}")
    if recipe.burn_in.epochs and recipe.burn_in.batch_size > split.burn_in:
        faults.append(
            f"burn_in.batch_size: got {recipe.burn_in.batch_size}, wanted at most split.burn_in = {split.burn_in}"
        )
    if recipe.burn_in.epochs and recipe.burn_in.checkpoint is not None:
        faults.append("burn_in.epochs: got epochs to train and a checkpoint, wanted epochs = 0 with burn_in.checkpoint")
    if not recipe.burn_in.epochs and recipe.burn_in.checkpoint is None:
        faults.append("burn_in.epochs: got 0 and no burn_in.checkpoint, wanted epochs to train, or trained weights")
    late = [epoch for epoch in recipe.burn_in.keep_epochs if epoch > recipe.burn_in.epochs]
    if late:
        faults.append(f"burn_in.keep_epochs: got {late}, wanted at most burn_in.epochs = {recipe.burn_in.epochs}")
    if recipe.burn_in.earlier and recipe.burn_in.checkpoint is None:
        faults.append("burn_in.earlier: got files without burn_in.checkpoint, wanted both (or burn_in.keep_epochs)")
    faults += _no_such_past(recipe)
    if recipe.schedule.margin and recipe.schedule.accuracy_floor is None:
        faults.append("schedule.margin: got a margin without schedule.accuracy_floor, wanted both")
    for i, attack in enumerate(recipe.attack):
        size = attack.settings.get("validation_size")
        if isinstance(size, int) and size > split.validation:
            faults.append(
                f"attack.{i}.validation_size: got {size}, wanted at most split.validation = {split.validation}"
            )
    for kind, entries in (("attack", recipe.attack), ("defence", recipe.defence)):
        for label, times in Counter(entry.label for entry in entries).items():
            if times > 1:
                faults.append(f"{kind}: got the label {label!r} {times} times, wanted a `label` of its own for each")
    for i, line in enumerate(recipe.published):
        for kind, entries in (("attack", recipe.attack), ("defence", recipe.defence)):
            labels = [entry.label for entry in entries]
            if getattr(line, kind) not in labels:
                faults.append(f"published.{i}.{kind}: got {getattr(line, kind)!r}, wanted a label: {', '.join(labels)}")
    repeated = [seed for seed, times in Counter(recipe.seeds).items() if times > 1]
    if repeated:
        faults.append(f"seeds: got {repeated} more than once, wanted each once")
    return faults


_LOOK_BACK = ("against", "evade", "surrogate")
"""Settings that name an earlier model: by the label of a snapshot, or by steps back."""


def _no_such_past(recipe: Recipe) -> list[str]:
    """Faults of settings that look back to where no snapshot is kept."""
    faults = []
    for kind, entries in (("attack", recipe.attack), ("defence", recipe.defence)):
        for i, entry in enumerate(entries):
            known = recipe.factory(kind, entry).settings.model_fields  # type: ignore[arg-type]
            for key in _LOOK_BACK:
                back = entry.settings.get(key) if key in known else None
                if isinstance(back, str) and back not in recipe.burn_in.labels:
                    kept = ", ".join(recipe.burn_in.labels) or "none are kept"
                    faults.append(
                        f"{kind}.{i}.{key}: got {back!r}, wanted a label of burn_in.keep_epochs or burn_in.earlier "
                        f"({kept})"
                    )
                elif isinstance(back, int) and not recipe.history.capacity:
                    faults.append(f"{kind}.{i}.{key}: got {back} steps back, wanted history.capacity above 0 with it")
    return faults
