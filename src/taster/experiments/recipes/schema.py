"""A recipe: everything that decides what a run computes, typed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from taster.client_gradients import BatchNormSync
from taster.data import Role
from taster.derivatives import METHOD_NAMES, DiffMethod
from taster.derivatives.method import Precision
from taster.errors import SettingError
from taster.experiments.recipes.registry import Factory, Kind, find_factory

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]


def _way(text: str) -> str:
    try:
        return text if text in ("fast", "exact") else str(DiffMethod.parse(text))
    except SettingError:
        raise ValueError(f"fast, exact, or a way: {METHOD_NAMES}") from None


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
    """One attack or defence of the grid, or a score. `label` tells entries of the same name apart; by default it is the
    name."""

    label: Annotated[str, Field(min_length=1)]


class Defence(Entry):
    """A defence; those named in `plus` follow it, with the settings they have by default: its guard + theirs."""

    plus: list[str] | None = None


_OF_SCORES = {"clean", "poisoned", "auc"}


class PublishedResult(Section):
    """What a paper reports, in the words of the results: for an attack and a defence accuracies in %, the drop in
    points with its standard deviation `std`, steps, cost, the share of samples screened in %, the seconds that one
    poisoned sample takes and the loss of normal samples that it brings about; or for an attack and a score its means on
    `clean` and `poisoned` samples, and the area under the ROC curve in %."""

    attack: str
    defence: str | None = None
    score: str | None = None
    before: float | None = None
    after: float | None = None
    drop: float | None = None
    std: float | None = None
    steps: float | None = None
    cost: float | None = None
    screened: float | None = None
    seconds: float | None = None
    loss: float | None = None
    clean: float | None = None
    poisoned: float | None = None
    auc: float | None = None

    @model_validator(mode="after")
    def _of_one_thing(self) -> PublishedResult:
        if (self.defence is None) == (self.score is None):
            raise ValueError("a defence or a score, and not both")
        others = _OF_SCORES if self.score is None else set(type(self).model_fields) - _OF_SCORES - {"attack", "score"}
        wrong = sorted(key for key in self.model_fields_set & others if getattr(self, key) is not None)
        if wrong:
            raise ValueError(f"no {', '.join(wrong)} of a {'defence' if self.score is None else 'score'}")
        return self


class Surrogate(Section):
    """A model of the attacker's own, burnt in as the learner's is, but from the run's seed plus `seed_offset`, and of
    another architecture where `model` names one. Attacks craft on it where their setting `surrogate` has its label."""

    label: Annotated[str, Field(min_length=1)]
    seed_offset: Annotated[int, Field(ge=0)] = 1000
    model: Named | None = None


class Data(Section):
    """Where samples come from; see `taster.data.load_images`."""

    source: str = "digits"
    config: str | None = None
    image: str | None = None
    label: str | None = None


class Split(Section):
    """Samples of each role. `stream` takes what is left where it is not given, `test` all of the set's test split."""

    burn_in: PositiveInt
    stream: PositiveInt | None = None
    trigger: PositiveInt
    validation: PositiveInt
    monitor: PositiveInt
    probe: PositiveInt
    test: PositiveInt | None = None

    def sizes(self) -> dict[Role, int | None]:
        """By role."""
        return self.model_dump()  # type: ignore[return-value]


class BurnIn(Section):
    """Training before anybody attacks: here for so many epochs, or elsewhere, with weights from a checkpoint.

    `keep_epochs` are kept as snapshots labelled "epoch-N"; with a checkpoint, `earlier` gives those of the past, a file
    for each label.
    """

    epochs: Annotated[int, Field(ge=0)] = 10
    batch_size: PositiveInt = 100
    learning_rate: PositiveFloat = 0.1
    momentum: Annotated[float, Field(ge=0)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    crop: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    checkpoint: str | None = None
    keep_epochs: list[PositiveInt] = []
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

    batch_size: PositiveInt = 100
    learning_rate: PositiveFloat | None = None
    fresh_optimizer: bool = False
    crop: Annotated[int, Field(ge=0)] = 0
    flip: bool = False


class ScheduleSection(Section):
    """When attacks strike: after `steps` accumulative steps at the latest, earlier by the other conditions."""

    steps: PositiveInt = 40
    dormant: Annotated[int, Field(ge=0)] = 0
    accuracy_floor: Annotated[float, Field(ge=0, le=100)] | None = None
    margin: Annotated[float, Field(ge=0, le=100)] = 0.0
    loss_amplification: Annotated[float, Field(gt=1)] | None = None


class HistorySection(Section):
    """Snapshots the learner keeps for stages that rewind or look back; 0 keeps none but the burn-in's epochs."""

    capacity: Annotated[int, Field(ge=0)] = 0
    every: PositiveInt = 1


class Federated(Section):
    """Learning from rounds of clients' updates instead of a stream of batches.

    `clients` share the stream's samples by `partition`: "iid", "dirichlet" by label with `alpha`, or "single", one sample
    each. Each round `clients_per_round` of them are drawn, each draws `samples` of its own (all, where it is not given) and
    sends the gradient, or after `local_epochs` of plain SGD what came of them. Of each round's clients the share
    `malicious_fraction` is the attacker's. `aggregator` is the rule of aggregation where the defence is none itself.
    `batch_norm` is what clients normalise with: the "recorded" statistics, or those of the round's samples together
    ("synchronized"), which the server then records. A client that claims more than `max_weight_ratio` times the median weight
    is dropped.
    """

    clients: PositiveInt = 100
    clients_per_round: PositiveInt = 100
    partition: Literal["iid", "dirichlet", "single"] = "iid"
    alpha: PositiveFloat = 0.5
    samples: PositiveInt | None = None
    malicious_fraction: Annotated[float, Field(ge=0, le=1)] = 0.2
    batch_norm: BatchNormSync = "recorded"
    local_epochs: Annotated[int, Field(ge=0)] = 0
    local_batch_size: PositiveInt | None = None
    local_learning_rate: PositiveFloat = 0.1
    aggregator: Named = Named(name="mean")
    max_weight_ratio: PositiveFloat = 10.0


class Compute(Section):
    """How it is computed. The first run decides what is left open of `device`, `threads` and `derivatives` and keeps
    it, as results depend on them.

    `derivatives` is how attacks compute theirs: a way by its name, see `taster.derivatives.DiffMethod`; or "fast" or "exact",
    which try the ways there are on this machine and keep the fastest (of automatic differentiation in float32, for
    "exact").
    The default is a way by its name, so that a recipe by itself gives the same bits every time.
    """

    device: str = "auto"
    precision: Precision = "float32"
    channels_last: bool = False
    threads: PositiveInt | None = None
    derivatives: Annotated[str, AfterValidator(_way)] = "finite_difference"
    eval_every: PositiveInt = 1

    @property
    def way(self) -> DiffMethod | None:
        """The way decided on, if one is."""
        return None if self.derivatives in ("fast", "exact") else DiffMethod.parse(self.derivatives)


def _seeds(value: Any) -> Any:
    return list(range(value)) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else value


def _labelled(value: Any) -> Any:
    """Fills in labels before validation, so that an entry without a name is told as such."""
    if isinstance(value, list):
        return [{**e, "label": e.get("label", e.get("name", "?"))} if isinstance(e, dict) else e for e in value]
    return value


class Recipe(Section):
    """A grid of attacks × defences × seeds on one model, data set and stream; scores are measured on all it feeds. With
    `[federated]` the stream comes in rounds of clients' updates."""

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
    federated: Federated | None = None
    compute: Compute = Compute()
    attack: Annotated[list[Entry], Field(min_length=1), BeforeValidator(_labelled)]
    defence: Annotated[list[Defence], Field(min_length=1), BeforeValidator(_labelled)]
    score: Annotated[list[Entry], BeforeValidator(_labelled)] = []
    surrogate: list[Surrogate] = []
    published: list[PublishedResult] = []

    def to_dict(self) -> dict[str, Any]:
        """Plain values, defaults filled in, those that are None left out as TOML has no null."""
        return self.model_dump(exclude_none=True)

    def to_toml(self) -> str:
        """The complete recipe as TOML."""
        return tomli_w.dumps(self.to_dict())

    def factory(self, kind: Kind, entry: Named) -> Factory:
        """The function that an entry names."""
        return find_factory(kind, entry.name)

    def computed_with(self, **decided: Any) -> Recipe:
        """The same recipe with keys of `[compute]` decided that were left open."""
        return self.model_copy(update={"compute": self.compute.model_copy(update=decided)})
