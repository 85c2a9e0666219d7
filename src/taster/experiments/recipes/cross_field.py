"""Faults of several keys of a recipe together, one small check each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from taster.attacks import DATASET_ATTACKS, UPDATE_ATTACKS
from taster.defences import DATASET_DEFENCES
from taster.experiments.recipes.registry import Kind
from taster.experiments.recipes.schema import (
    Entry,
    Federated,
    HistorySection,
    Offline,
    Recipe,
    ScheduleSection,
    StreamSection,
)
from taster.federated import AGGREGATORS

_VALIDATION_SIZES = ("validation_size", "group_size", "pretraining_size")
_LOOK_BACK = ("reference_model", "compared_model", "evade_reference", "surrogate")
"""Settings that name an earlier model: by the label of a snapshot, or by steps back."""


def cross_field_errors(recipe: Recipe) -> list[str]:
    """All faults of a recipe whose keys are valid one by one: the key's path, what was got and what was wanted."""
    return [fault for check in _CHECKS for fault in check(recipe)]


def _roles_have_samples(recipe: Recipe) -> Iterator[str]:
    split, offline = recipe.split, recipe.offline
    wanted = ["burn_in", "trigger", "validation", "monitor", "probe"]
    if offline is not None:
        wanted = ["validation", "probe", *(["burn_in"] if offline.burns_in else [])]
    for role in wanted:
        if not getattr(split, role):
            yield f"split.{role}: got nothing, wanted a number of samples"
    unused = ["train"] if offline is None else ["stream", "trigger", "monitor"]
    unused += [] if offline is None or offline.burns_in else ["burn_in"]
    for role in unused:
        if getattr(split, role):
            with_or_without = "without" if offline is None else "with"
            yield f"split.{role}: got {getattr(split, role)} {with_or_without} [offline], wanted none"


def _tables_are_no_images(recipe: Recipe) -> Iterator[str]:
    data = recipe.data
    if data.table is None:
        return
    if recipe.federated is not None:
        yield "data.table: got a table with [federated], wanted one on a stream or with [offline]"
    if data.table.length is not None and data.table.words != "tokens":
        yield f'data.table.length: got one with words = {data.table.words!r}, wanted "tokens" with it'
    if data.table.words == "tokens" and data.table.text is None:
        yield 'data.table.words: got "tokens" without data.table.text, wanted a column of texts with it'
    for key in ("config", "image", "label", "layout", "resize", "color"):
        if getattr(data, key) is not None:
            yield f"data.{key}: got one with data.table, wanted it for images alone (data.table.label is a table's)"
    for name in ("burn_in", "stream", "offline"):
        section = getattr(recipe, name)
        if section is not None and (section.crop or section.flip):
            yield f"{name}.crop, {name}.flip: got one with data.table, wanted neither, as rows are no images"


def _batches_fit_their_splits(recipe: Recipe) -> Iterator[str]:
    split, batch_size = recipe.split, recipe.stream.batch_size
    if split.stream is not None and batch_size > split.stream:
        yield f"stream.batch_size: got {batch_size}, wanted at most split.stream = {split.stream}"
    if recipe.burn_in.epochs and recipe.burn_in.batch_size > split.burn_in:
        yield f"burn_in.batch_size: got {recipe.burn_in.batch_size}, wanted at most split.burn_in = {split.burn_in}"


def _weights_come_from_epochs_or_a_checkpoint(recipe: Recipe) -> Iterator[str]:
    section = recipe.burn_in
    if recipe.offline is not None and not recipe.offline.burns_in:
        if section.epochs or section.checkpoint is not None:
            yield 'burn_in: got one with offline.mode = "scratch", wanted none, or "fine_tune" or "transfer"'
        return
    if section.epochs and section.checkpoint is not None:
        yield "burn_in.epochs: got epochs to train and a checkpoint, wanted epochs = 0 with burn_in.checkpoint"
    if not section.epochs and section.checkpoint is None:
        yield "burn_in.epochs: got 0 and no burn_in.checkpoint, wanted epochs to train, or trained weights"
    if section.earlier and section.checkpoint is None:
        yield "burn_in.earlier: got files without burn_in.checkpoint, wanted both (or burn_in.keep_epochs)"
    if section.split_seed is not None and section.checkpoint is None:
        yield "burn_in.split_seed: got one without burn_in.checkpoint, wanted both"
    if recipe.surrogate and section.checkpoint is not None:
        yield "surrogate: got one with burn_in.checkpoint, wanted burn_in.epochs, which it is trained for too"


def _kept_epochs_are_trained(recipe: Recipe) -> Iterator[str]:
    late = [epoch for epoch in recipe.burn_in.keep_epochs if epoch > recipe.burn_in.epochs]
    if late:
        yield f"burn_in.keep_epochs: got {late}, wanted at most burn_in.epochs = {recipe.burn_in.epochs}"


def _a_margin_has_its_floor(recipe: Recipe) -> Iterator[str]:
    if recipe.schedule.margin and recipe.schedule.accuracy_floor is None:
        yield "schedule.margin: got a margin without schedule.accuracy_floor, wanted both"


def _attacks_fit_the_validation_split(recipe: Recipe) -> Iterator[str]:
    most = recipe.split.validation
    for i, attack in enumerate(recipe.attack):
        for key in _VALIDATION_SIZES:
            size = attack.settings.get(key)
            if isinstance(size, int) and size > most:
                yield f"attack.{i}.{key}: got {size}, wanted at most split.validation = {most}"


def _seeds_are_distinct(recipe: Recipe) -> Iterator[str]:
    repeated = [seed for seed, times in Counter(recipe.seeds).items() if times > 1]
    if repeated:
        yield f"seeds: got {repeated} more than once, wanted each once"


def _labels_are_distinct(recipe: Recipe) -> Iterator[str]:
    labels = {kind: [entry.label for entry in entries] for kind, entries in _grid(recipe).items()}
    for kind, own in [*labels.items(), ("surrogate", _surrogates(recipe))]:
        for label, times in Counter(own).items():
            if times > 1:
                yield f"{kind}: got the label {label!r} {times} times, wanted a `label` of its own for each"
    both = [label for label in _surrogates(recipe) if label in recipe.burn_in.labels]
    if both:
        yield f"surrogate: got {both}, which are labels of the burn-in's snapshots; wanted others"


def _published_results_name_entries(recipe: Recipe) -> Iterator[str]:
    for i, line in enumerate(recipe.published):
        for kind, entries in _grid(recipe).items():
            got, labels = getattr(line, kind), [entry.label for entry in entries]
            if got is not None and got not in labels:
                yield f"published.{i}.{kind}: got {got!r}, wanted a label: {', '.join(labels) or 'none'}"
    keys = Counter((line.attack, line.defence, line.score) for line in recipe.published)
    for key, times in keys.items():
        if times > 1:
            yield f"published: got {' and '.join(filter(None, key))} {times} times, wanted each once"


def _looked_back_models_are_kept(recipe: Recipe) -> Iterator[str]:
    for kind, entries in _grid(recipe).items():
        for i, entry in enumerate(entries):
            settings = recipe.factory(kind, entry).settings.model_fields
            for key in _LOOK_BACK:
                if key in settings:
                    yield from _looks_back(recipe, f"{kind}.{i}.{key}", key, entry.settings.get(key))


def _looks_back(recipe: Recipe, path: str, key: str, back: object) -> Iterator[str]:
    labels = recipe.burn_in.labels + (_surrogates(recipe) if key == "surrogate" else [])
    if isinstance(back, str) and back not in labels:
        where = "burn_in.keep_epochs or burn_in.earlier"
        where += ", or of a [[surrogate]]" if key == "surrogate" else ""
        yield f"{path}: got {back!r}, wanted a label of {where} ({', '.join(labels) or 'none are kept'})"
    elif isinstance(back, int) and not recipe.history.capacity:
        yield f"{path}: got {back} steps back, wanted history.capacity above 0 with it"


def _surrogates_have_no_past_to_evade(recipe: Recipe) -> Iterator[str]:
    for i, attack in enumerate(recipe.attack):
        evaded = attack.settings.get("evade_reference")
        if evaded is not None and attack.settings.get("surrogate") in _surrogates(recipe):
            yield (
                f"attack.{i}.evade_reference: got {evaded!r} with a surrogate that is no earlier model of the "
                "learner's and has no past; wanted one of the two"
            )


def _federated_entries_are_in_a_federation(recipe: Recipe) -> Iterator[str]:
    if recipe.federated is not None or recipe.offline is not None:
        return
    for kind, entries, federated in (
        ("attack", recipe.attack, UPDATE_ATTACKS),
        ("defence", recipe.defence, AGGREGATORS),
    ):
        for i, entry in enumerate(entries):
            if entry.name in federated:
                yield f"{kind}.{i}.name: got {entry.name!r}, which is for federated learning, without [federated]"


def _dataset_entries_are_offline(recipe: Recipe) -> Iterator[str]:
    if recipe.offline is not None:
        return
    for kind, entries, dataset in (
        ("attack", recipe.attack, set(DATASET_ATTACKS)),
        ("defence", recipe.defence, set(DATASET_DEFENCES)),
    ):
        for i, entry in enumerate(entries):
            if entry.name in dataset:
                yield f"{kind}.{i}.name: got {entry.name!r}, which is for training sets, without [offline]"


def _of_offline(check: Callable[[Recipe, Offline], Iterator[str]]) -> Callable[[Recipe], Iterator[str]]:
    """A check of recipes that have the section `[offline]`."""
    return lambda recipe: iter(()) if recipe.offline is None else check(recipe, recipe.offline)


def _offline_there_is_no_stream(recipe: Recipe, section: Offline) -> Iterator[str]:
    for name, value, default in (
        ("stream", recipe.stream, StreamSection()),
        ("schedule", recipe.schedule, ScheduleSection()),
        ("history", recipe.history, HistorySection()),
        ("federated", recipe.federated, None),
        ("score", recipe.score, []),
        ("surrogate", recipe.surrogate, []),
    ):
        if value != default:
            hint = " (offline.attacker_models are the surrogates)" if name == "surrogate" else ""
            yield f"{name}: got settings of it with [offline], wanted none{hint}"


def _offline_attacks_have_no_step_to_wait_for(recipe: Recipe, section: Offline) -> Iterator[str]:
    for i, attack in enumerate(recipe.attack):
        if attack.name in UPDATE_ATTACKS or recipe.factory("attack", attack).waits_for_a_step:
            what = "clients of a federation" if attack.name in UPDATE_ATTACKS else "the steps of a stream"
            yield f"attack.{i}.name: got {attack.name!r}, which is for {what}, with [offline]"
    for i, defence in enumerate(recipe.defence):
        if defence.name in AGGREGATORS:
            yield f"defence.{i}.name: got {defence.name!r}, which is for federated learning, with [offline]"


def _of_federation(check: Callable[[Recipe, Federated], Iterator[str]]) -> Callable[[Recipe], Iterator[str]]:
    """A check of recipes that have the section `[federated]`."""
    return lambda recipe: iter(()) if recipe.federated is None else check(recipe, recipe.federated)


def _clients_have_samples(recipe: Recipe, section: Federated) -> Iterator[str]:
    per_round, split = section.clients_per_round, recipe.split
    if per_round > section.clients:
        yield f"federated.clients_per_round: got {per_round}, wanted at most clients = {section.clients}"
    if split.trigger < per_round:
        yield (
            f"split.trigger: got {split.trigger}, wanted at least federated.clients_per_round = {per_round}: a sample "
            "for each client of the trigger's round"
        )
    if split.stream is not None and split.stream < section.clients:
        yield f"split.stream: got {split.stream}, wanted at least federated.clients = {section.clients}"


def _clients_share_statistics_of_one_model(recipe: Recipe, section: Federated) -> Iterator[str]:
    if section.local_epochs and section.batch_norm != "recorded":
        yield (
            f"federated.batch_norm: got {section.batch_norm!r} with local_epochs, where clients' models differ; wanted "
            "'recorded'"
        )


def _servers_see_no_samples(recipe: Recipe, section: Federated) -> Iterator[str]:
    if recipe.score:
        yield "score: got scores of samples with [federated], where the server sees none; wanted none"
    for i, attack in enumerate(recipe.attack):
        if "simulator" in recipe.factory("attack", attack).needs:
            yield (
                f"attack.{i}.name: got {attack.name!r}, which tries batches on a copy of the guard, with [federated]"
            )


def _grid(recipe: Recipe) -> dict[Kind, Sequence[Entry]]:
    return {"attack": recipe.attack, "defence": recipe.defence, "score": recipe.score}


def _surrogates(recipe: Recipe) -> list[str]:
    return [surrogate.label for surrogate in recipe.surrogate]


_CHECKS: tuple[Callable[[Recipe], Iterator[str]], ...] = (
    _roles_have_samples,
    _tables_are_no_images,
    _batches_fit_their_splits,
    _weights_come_from_epochs_or_a_checkpoint,
    _kept_epochs_are_trained,
    _looked_back_models_are_kept,
    _federated_entries_are_in_a_federation,
    _dataset_entries_are_offline,
    _of_offline(_offline_there_is_no_stream),
    _of_offline(_offline_attacks_have_no_step_to_wait_for),
    _of_federation(_clients_have_samples),
    _of_federation(_clients_share_statistics_of_one_model),
    _of_federation(_servers_see_no_samples),
    _a_margin_has_its_floor,
    _attacks_fit_the_validation_split,
    _labels_are_distinct,
    _published_results_name_entries,
    _surrogates_have_no_past_to_evade,
    _seeds_are_distinct,
)
