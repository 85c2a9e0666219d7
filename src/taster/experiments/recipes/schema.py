"""A recipe: everything that decides what a run computes, typed."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import tomli_w
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from taster.client_gradients import BatchNormSync
from taster.core.training_settings import Decay, TrainingSettings
from taster.data import Color, Column, Layout, Role, Scale, WordFeatures
from taster.derivatives import METHOD_NAMES, DiffMethod
from taster.derivatives.method import Precision
from taster.errors import SettingError
from taster.experiments.recipes.raw_values import RECIPE
from taster.experiments.recipes.registry import Factory, Kind, find_factory
from taster.offline import Mode

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]

_MAX_THREADS = 1024
_MAX_SEEDS = 100_000


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("text on one line, without control characters")
    return text


def _folder_name(text: str) -> str:
    if not text.isprintable() or set(text) & set('/\\:*?"<>|') or text != text.strip(" .") or len(text.encode()) > 100:
        raise ValueError(
            'a name that a folder can have: at most 100 bytes, without control characters and / \\ : * ? " < > |, '
            "with no dot or space at either end"
        )
    return text


Label = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
"""Tells entries apart, in tables and file names."""


def _method_name(text: str) -> str:
    try:
        return str(DiffMethod.parse(text))
    except SettingError:
        raise ValueError(METHOD_NAMES) from None


class Section(BaseModel):
    """Base class of all sections. Unknown keys and wrong types are faults."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Named(BaseModel):
    """A section that names a function; further keys are that function's settings."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """The function's settings."""
        return dict(self.__pydantic_extra__ or {})


class Entry(Named):
    """One attack or defence of the grid, or a score. `label` tells entries of the same name apart; by default it is the
    name."""

    label: Label


class Defence(Entry):
    """A defence. The guards of those named in `plus` are added to its own, each with its default settings."""

    plus: list[str] | None = None


_OF_SCORES = {"clean", "poisoned", "auc"}


class PublishedResult(Section):
    """A result as a paper reports it, shown beside ours.

    For an attack and a defence: accuracies in %, the drop in points with its standard deviation `std`, steps, cost, the
    share of samples screened in %, the seconds that crafting one poisoned sample takes, the loss of normal samples
    after it, and the success rates of a backdoor and of targets in %. For an attack and a score: its means on `clean`
    and `poisoned` samples, and the area under the ROC curve in %."""

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
    asr: float | None = None
    target_success: float | None = None
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
    """A model of the attacker's own.

    It is burnt in like the learner's, from the run's seed plus `seed_offset`; `model` gives it another architecture.
    Attacks whose setting `surrogate` has its label craft on it."""

    label: Label
    seed_offset: Annotated[int, Field(ge=0)] = 1000
    model: Named | None = None


class TableSection(Section):
    """A table in place of images: `data.source` is a file of comma- or tab-separated values, see
    `taster.data.load_table`; its scales or vocabulary are fitted on the samples that are trained on first, see
    `taster.data.fit_numbers`, `taster.data.fit_words` and, for words = "tokens", `taster.data.fit_tokens` with its
    `length`. `unique` keeps the first of equal rows alone."""

    label: Column = -1
    text: Column | None = None
    ignore: list[Column] = []
    header: bool | None = None
    delimiter: str | None = None
    quoted: bool | None = None
    encoding: str = "utf-8"
    unique: bool = False
    scale: Scale = "range"
    words: Literal[WordFeatures, "tokens"] = "presence"
    length: PositiveInt | None = None
    max_words: PositiveInt | None = None
    min_rows: PositiveInt = 1


class Data(Section):
    """Where samples come from; see `taster.data.load_images`, and for a file with a table `TableSection`.
    `class_names` are for people: what the page calls the classes."""

    source: str = "digits"
    config: str | None = None
    image: str | None = None
    label: str | None = None
    layout: Layout | None = None
    resize: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)] | None = None
    color: Color | None = None
    class_names: list[Label] | None = None
    table: TableSection | None = None


class Split(Section):
    """Number of samples of each role; 0 for roles that the scenario has no use for. `stream` and, of an offline recipe,
    `train` default to the rest, `test` to the data set's whole test split."""

    burn_in: NonNegativeInt = 0
    stream: PositiveInt | None = None
    train: PositiveInt | None = None
    trigger: NonNegativeInt = 0
    validation: NonNegativeInt = 0
    monitor: NonNegativeInt = 0
    probe: NonNegativeInt = 0
    test: PositiveInt | None = None


class BurnIn(Section):
    """Training before the stream begins: for `epochs`, or done elsewhere, with weights from a `checkpoint`.

    The model after each of `keep_epochs` is kept as a snapshot labelled "epoch-N". With a checkpoint, `earlier` maps
    labels to files of earlier weights instead, and `split_seed` is that of the split that they were trained on: the
    samples of the role burn_in are the same for every seed then, so that no other role has one of them.
    """

    epochs: Annotated[int, Field(ge=0)] = 10
    batch_size: PositiveInt = 100
    learning_rate: PositiveFloat = 0.1
    momentum: Annotated[float, Field(ge=0)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    crop: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    checkpoint: str | None = None
    split_seed: Annotated[int, Field(ge=0)] | None = None
    keep_epochs: list[PositiveInt] = []
    earlier: dict[str, str] = {}

    @property
    def labels(self) -> list[str]:
        """Labels of the snapshots that are kept."""
        return [f"epoch-{epoch}" for epoch in self.keep_epochs] + list(self.earlier)

    @model_validator(mode="before")
    @classmethod
    def _no_epochs_of_trained_weights(cls, raw: Any) -> Any:
        return {"epochs": 0, **raw} if isinstance(raw, dict) and raw.get("checkpoint") is not None else raw


class StreamSection(Section):
    """Learning after release. `learning_rate` defaults to the burn-in's; `fresh_optimizer` drops the burn-in's
    momentum."""

    batch_size: PositiveInt = 100
    learning_rate: PositiveFloat | None = None
    fresh_optimizer: bool = False
    crop: Annotated[int, Field(ge=0)] = 0
    flip: bool = False


class ScheduleSection(Section):
    """When the trigger comes: after `steps` accumulative steps, or earlier by one of the other conditions."""

    steps: PositiveInt = 40
    dormant: Annotated[int, Field(ge=0)] = 0
    accuracy_floor: Annotated[float, Field(ge=0, le=100)] | None = None
    margin: Annotated[float, Field(ge=0, le=100)] = 0.0
    loss_amplification: Annotated[float, Field(gt=1)] | None = None


class HistorySection(Section):
    """Snapshots that the learner keeps for stages that rewind or look back. 0 keeps only the burn-in's epochs."""

    capacity: Annotated[int, Field(ge=0)] = 0
    every: PositiveInt = 1


class Federated(Section):
    """Learning from rounds of clients' updates instead of a stream of batches.

    Attributes:
        clients: share the stream's samples.
        clients_per_round: drawn for each round, without replacement.
        partition: of the samples: "iid", "dirichlet" by label with `alpha`, or "single", one sample each.
        samples: that a client draws from its own in a round; None takes all.
        malicious_fraction: the attacker's share of each round's clients.
        batch_norm: what clients normalize with: the server's recorded statistics, or those of all the round's samples
            together, which the server then records.
        local_epochs: of plain SGD that a client does before it sends its weights' difference; 0 sends the gradient.
        aggregator: the aggregation rule of defences that are none themselves.
        max_weight_ratio: a client that claims more than so many times the median weight is dropped.
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


_TRAINING = TrainingSettings()


class Offline(Section):
    """Training on a data set from elsewhere instead of a stream; its samples have the role `train`.

    Attributes:
        mode: what is trained: a model from random weights ("scratch"), all of the burnt-in model ("fine_tune"), or its
            last linear layer alone ("transfer").
        epochs, batch_size, learning_rate, decay, momentum, nesterov, weight_decay, label_smoothing, subsample, crop,
            flip: see `taster.core.training_settings.TrainingSettings`.
        attacker_models: the models that the attacker supposes and trains from random weights (surrogates); attacks on
            one model take the first. None: he knows the model (white box).
        attacker_seed: added to the run's seed wherever the attacker trains, as he does not know it.
    """

    mode: Mode = "scratch"
    epochs: PositiveInt = _TRAINING.epochs
    batch_size: PositiveInt = _TRAINING.batch_size
    learning_rate: PositiveFloat = _TRAINING.learning_rate
    decay: Decay = _TRAINING.decay
    momentum: Annotated[float, Field(ge=0, lt=1)] = _TRAINING.momentum
    nesterov: bool = _TRAINING.nesterov
    weight_decay: Annotated[float, Field(ge=0)] = _TRAINING.weight_decay
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = _TRAINING.label_smoothing
    subsample: Annotated[float, Field(gt=0, le=1)] = _TRAINING.subsample
    crop: NonNegativeInt = _TRAINING.crop
    flip: bool = _TRAINING.flip
    attacker_models: list[Named] = []
    attacker_seed: NonNegativeInt = 1000

    def training(self) -> TrainingSettings:
        """The settings of the training."""
        own = {field.name for field in dataclasses.fields(TrainingSettings)}
        return TrainingSettings(**{key: value for key, value in self if key in own})

    @property
    def burns_in(self) -> bool:
        """Whether a model is trained before."""
        return self.mode != "scratch"


class Compute(Section):
    """Device, precision and threads.

    Results depend on `device` and `threads`, so the first run decides those that are left open and writes them into its
    recipe. `derivatives` names the method by which attacks differentiate, see `taster.derivatives.DiffMethod`.
    `eval_every` is in steps between test evaluations. With `deterministic` a run on a GPU uses only kernels that give
    the same bits each time, and fails where there is none; on a CPU it has them anyway.
    """

    device: str = "auto"
    precision: Precision = "float32"
    channels_last: bool = False
    threads: Annotated[int, Field(ge=1, le=_MAX_THREADS)] | None = None
    derivatives: Annotated[str, AfterValidator(_method_name)] = "finite_difference"
    eval_every: PositiveInt = 1
    deterministic: bool = False

    @property
    def diff_method(self) -> DiffMethod:
        """The method named by `derivatives`."""
        return DiffMethod.parse(self.derivatives)


_OF_STREAMS = {"stream", "schedule", "history", "score", "surrogate"}
"""Sections that an offline recipe leaves at their defaults."""


def _seeds(value: Any) -> Any:
    """Expands N to the seeds 0 to N - 1."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_SEEDS:
        return list(range(value))
    return value


def _labelled(value: Any) -> Any:
    """Fills in labels before validation, so that a missing name is the only fault of an entry without one."""
    if isinstance(value, list):
        return [{**e, "label": e.get("label", e.get("name", "?"))} if isinstance(e, dict) else e for e in value]
    return value


class Recipe(Section):
    """A grid of attacks × defences × seeds on one model and data set, in one scenario: online, federated if it has the
    section `[federated]`, or offline if it has `[offline]`. Scores are measured in every cell of a stream. `title` is
    what the page is called, by default `name`."""

    name: Annotated[str, Field(min_length=1), AfterValidator(_folder_name)]
    title: Label | None = None
    description: str = ""
    source: str = ""
    seeds: Annotated[
        list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=_MAX_SEEDS), BeforeValidator(_seeds)
    ] = [0, 1, 2]
    data: Data = Data()
    split: Split
    model: Named
    burn_in: BurnIn = BurnIn()
    stream: StreamSection = StreamSection()
    schedule: ScheduleSection = ScheduleSection()
    history: HistorySection = HistorySection()
    federated: Federated | None = None
    offline: Offline | None = None
    compute: Compute = Compute()
    attack: Annotated[list[Entry], Field(min_length=1), BeforeValidator(_labelled)]
    defence: Annotated[list[Defence], Field(min_length=1), BeforeValidator(_labelled)]
    score: Annotated[list[Entry], BeforeValidator(_labelled)] = []
    surrogate: list[Surrogate] = []
    published: list[PublishedResult] = []

    def split_sizes(self) -> dict[Role, int | None]:
        """The number of samples of each role; None for the rest."""
        sizes: dict[Role, int | None] = self.split.model_dump()  # type: ignore[assignment]
        return {**sizes, "stream": 0} if self.offline else {**sizes, "train": 0}

    @model_validator(mode="before")
    @classmethod
    def _no_burn_in_from_scratch(cls, raw: Any) -> Any:
        offline = raw.get("offline") if isinstance(raw, dict) else None
        if isinstance(offline, dict) and offline.get("mode", "scratch") == "scratch" and "burn_in" not in raw:
            return {**raw, "burn_in": {"epochs": 0}}
        return raw

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, defaults filled in. None is left out, as TOML has no null, and so are of an
        offline recipe the sections that it has no use for."""
        unused = set() if self.offline is None else _OF_STREAMS | (set() if self.offline.burns_in else {"burn_in"})
        return self.model_dump(exclude_none=True, exclude=unused)

    def to_toml(self) -> str:
        """The complete recipe as TOML, with its format version."""
        return tomli_w.dumps({**RECIPE.mark(), **self.to_dict()})

    def factory(self, kind: Kind, entry: Named) -> Factory:
        """Looks up the function that an entry names."""
        return find_factory(kind, entry.name)

    def with_compute(self, **decided: Any) -> Recipe:
        """Returns a copy with keys of `[compute]` replaced."""
        return self.model_copy(update={"compute": self.compute.model_copy(update=decided)})
