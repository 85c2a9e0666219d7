"""What cells of every scenario work with, built from the recipe: guard, learner, attack, surrogates, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.functional import cross_entropy

from taster.attacks import (
    DatasetAttack,
    GuardSimulator,
    OnlineAttack,
    Schedule,
    after_steps,
    at_accuracy_floor,
    at_loss_amplification,
)
from taster.core.batch import Batch
from taster.core.fitting import DefendedFit
from taster.core.guard import Guard
from taster.core.learner import Learner
from taster.core.snapshots import SnapshotBuffer
from taster.core.view import View
from taster.data import Sampler
from taster.defences import TemporalStream
from taster.derivatives import Derivatives
from taster.errors import AttackError, RecipeError, TasterError
from taster.experiments.recipes.registry import Factory, Kind, find_factory
from taster.experiments.recipes.schema import Defence, Entry, Named, Recipe, ScheduleSection
from taster.experiments.scenarios.burn_in import build_model, build_optimizer, input_range, surrogate_recipe
from taster.experiments.scenarios.context import BurntIn, SeedContext
from taster.experiments.user_code import user_code
from taster.scores.base import Score
from taster.utils.import_path import is_import_path
from taster.utils.logging import suppress_log_messages
from taster.utils.seeds import derived_seed, generator


def make_guard_parts(context: SeedContext, defence: Defence, probe: Batch, draws: str = "defence") -> list[Any]:
    """Calls the functions of a defence and of those named in its `plus`.

    Args:
        context: of the seed.
        defence: the entry.
        probe: trusted samples, for functions that need them.
        draws: names the generator that the functions share.

    Returns:
        what each function returned.

    Raises:
        RecipeError: if a function cannot work with its settings.
    """
    resources: dict[str, Any] = {"probe": probe, "generator": generator(context.seed, draws)}
    factories = [context.recipe.factory("defence", Named(name=name)) for name in (defence.name, *(defence.plus or []))]
    if any("training_samples" in factory.needs for factory in factories):
        resources["training_samples"] = context.training_samples
    # A probe too small for the bound it is asked for is the recipe's choice, and its results say so.
    with suppress_log_messages("taster.defences.gates.probe_gate"):
        seed = derived_seed(context.seed, draws) % 10**9
        parts = [_make(context.recipe, "defence", defence, resources, _seeded(factories[0], defence.settings, seed))]
        for name in defence.plus or []:
            factory = find_factory("defence", name)
            settings = _seeded(factory, factory.settings().model_dump(exclude_none=True), seed)
            parts.append(_make(context.recipe, "defence", Named(name=name), resources, settings, defence.label))
    return parts


def _seeded(factory: Factory, settings: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """The settings with a seed where a function takes one and is given none: a run made again is the same."""
    if "seed" not in factory.settings.model_fields or settings.get("seed") is not None:
        return settings
    return {**settings, "seed": seed}


def join_guards(recipe: Recipe, defence: Defence, guards: Sequence[Guard]) -> Guard:
    """Adds guards up.

    Raises:
        RecipeError: if the sum rewinds further than the recipe's history reaches back.
    """
    guard = sum(guards, Guard())
    reach = make_history(recipe, guard).reach
    if guard.max_rewind > reach:
        raise RecipeError(
            f"defence {defence.label}: rewinds up to {guard.max_rewind} steps where the history reaches back {reach}, "
            "wanted a larger history.capacity"
        )
    return guard


def make_guard(context: SeedContext, defence: Defence, probe: Batch, draws: str = "defence") -> Guard:
    """Makes the guard of a defence that is no aggregation rule.

    Args:
        context: of the seed.
        defence: the entry.
        probe: trusted samples.
        draws: names the generator that it draws from.

    Raises:
        RecipeError: if a function cannot work with its settings or returns no `Guard`, or the guard rewinds further
            than the history reaches back.
    """
    return _guard_of(context, defence, make_guard_parts(context, defence, probe, draws))


def make_stream_defence(context: SeedContext, defence: Defence, probe: Batch) -> tuple[Guard, TemporalStream | None]:
    """Makes the defence of a stream: a guard, or an ensemble of windows that votes beside an unguarded learner.

    Raises:
        RecipeError: see `make_guard`; also for an ensemble that is not alone.
    """
    parts = make_guard_parts(context, defence, probe)
    if not any(isinstance(made, TemporalStream) for made in parts):
        return _guard_of(context, defence, parts), None
    if len(parts) > 1 or not isinstance(parts[0], TemporalStream):
        raise RecipeError(
            f"defence {defence.label}: got an ensemble beside other defences (plus), wanted it alone: its models are "
            "trained on every batch as it comes"
        )
    return Guard(), parts[0]


def _guard_of(context: SeedContext, defence: Defence, parts: Sequence[Any]) -> Guard:
    """Adds up what the functions of a defence returned."""
    for made in parts:
        if not isinstance(made, Guard):
            raise RecipeError(f"defence {defence.label}: {defence.name} returned {type(made).__name__}, wanted a Guard")
    return join_guards(context.recipe, defence, parts)


def make_history(recipe: Recipe, guard: Guard) -> SnapshotBuffer:
    """Makes the learner's snapshot buffer: as `[history]` says or, if that keeps none, as long as the guard rewinds."""
    if guard.max_rewind and not recipe.history.capacity:
        return SnapshotBuffer.for_rewind(guard.max_rewind)
    return SnapshotBuffer(recipe.history.capacity, every=recipe.history.every)


def make_learner(context: SeedContext, burnt_in: BurntIn, guard: Guard) -> Learner:
    """Makes a learner with a guard, as it is at the start of the stream.

    Args:
        context: of the seed.
        burnt_in: the state that it starts from.
        guard: its guard.

    Returns:
        the learner, in training mode, with the stream's learning rate.
    """
    recipe = context.recipe
    model = build_model(recipe, context.data, context.seed, context.device)
    optimizer = build_optimizer(recipe, model)
    history = make_history(recipe, guard)
    learner = Learner(
        model,
        optimizer,
        cross_entropy,
        guard,
        snapshots=history,
        precision=recipe.compute.precision,
        input_range=input_range(context.data),
    )
    learner.load_state_dict({**burnt_in, "guard": guard.state_dict()})
    if recipe.stream.fresh_optimizer:
        optimizer.state.clear()
    if recipe.stream.learning_rate is not None:
        for group in optimizer.param_groups:
            group["lr"] = recipe.stream.learning_rate
    model.train()
    return learner


def check_guard(context: SeedContext, model: nn.Module, defence: Defence, guard: Guard) -> None:
    """Makes a learner of a model and a guard, so that stages which do not fit the model say so before any training.

    Raises:
        TasterError: by a stage that does not fit.
    """
    recipe = context.recipe
    with user_code(defence, recipe.model):
        optimizer, history = build_optimizer(recipe, model), make_history(recipe, guard)
        Learner(
            model,
            optimizer,
            cross_entropy,
            guard,
            snapshots=history,
            precision=recipe.compute.precision,
            input_range=input_range(context.data),
        )


def make_surrogates(context: SeedContext, burnt_in: BurntIn) -> dict[str, View]:
    """Makes views of the attacker's own models, by their labels."""
    recipe, found = context.recipe, {}
    for section in recipe.surrogate:
        model = build_model(surrogate_recipe(recipe, section), context.data, context.seed, context.device)
        model.load_state_dict(burnt_in["surrogates"][section.label])
        optimizer, precision = build_optimizer(recipe, model), recipe.compute.precision
        found[section.label] = Learner(
            model, optimizer, cross_entropy, precision=precision, input_range=input_range(context.data)
        ).view()
    return found


def make_attack(
    context: SeedContext,
    attack: Entry,
    surrogates: Mapping[str, View] | None = None,
    simulator: GuardSimulator | None = None,
    defended: DefendedFit | None = None,
) -> Any:
    """Calls the function of an attack with the samples that are the attacker's.

    Args:
        context: of the seed.
        attack: the entry.
        surrogates: the attacker's own models; without them the attack can be made but not run.
        simulator: the attacker's copy of the guarded learner, for attacks that need it; likewise.
        defended: the training of an offline recipe behind its defence, for attacks that try it; likewise.

    Returns:
        what the function returned.

    Raises:
        RecipeError: if the function cannot work with its settings.
    """
    recipe, seed = context.recipe, context.seed
    resources = {
        "trigger": context.batches.get("trigger"),
        "draw_validation": Sampler(context.roles["validation"].to(context.device), generator(seed, "validation")),
        "generator": generator(seed, "attack"),
        "derivatives": Derivatives(recipe.compute.diff_method),
        "surrogates": surrogates or {},
        "simulator": simulator,
        "learning_rate": stream_learning_rate(recipe),
        "defended": defended,
    }
    return _make(recipe, "attack", attack, resources, attack.settings)


def check_budget(entry: Entry, made: OnlineAttack | DatasetAttack, samples: Batch) -> None:
    """Raises RecipeError for an attack whose budget has no measure for the recipe's samples."""
    try:
        made.check(samples)
    except AttackError as error:
        raise RecipeError(f"attack {entry.label}: {error}") from error


def make_score(context: SeedContext, entry: Entry) -> Score:
    """Makes a score, with the trusted samples.

    Raises:
        RecipeError: if its function cannot work with its settings or returns no `Score`.
    """
    made = _make(context.recipe, "score", entry, {"probe": context.batches["probe"]}, entry.settings)
    if not callable(made):
        raise RecipeError(f"score {entry.label}: {entry.name} returned {type(made).__name__}, wanted a Score")
    return made  # type: ignore[no-any-return]


def make_schedule(section: ScheduleSection, *, harmless: bool = False) -> Schedule:
    """Makes the schedule of an attack's phases.

    Args:
        section: the recipe's `[schedule]`.
        harmless: whether nobody attacks. Then only the number of steps ends the phase: accuracy that a defence costs by
            itself is a result.
    """
    stops = {}  # the harm done is named before the number of steps
    if section.accuracy_floor is not None and not harmless:
        stops["accuracy_floor"] = at_accuracy_floor(section.accuracy_floor, margin=section.margin)
    if section.loss_amplification is not None and not harmless:
        stops["loss_amplification"] = at_loss_amplification(section.loss_amplification)
    stops["steps"] = after_steps(section.steps)
    return Schedule(stops, section.dormant)


def stream_learning_rate(recipe: Recipe) -> float:
    """The learning rate of the stream, or of the training of an offline recipe."""
    if recipe.offline is not None:
        return recipe.offline.learning_rate
    return recipe.stream.learning_rate or recipe.burn_in.learning_rate


def _make(
    recipe: Recipe,
    kind: Kind,
    entry: Named,
    resources: Mapping[str, Any],
    settings: Mapping[str, Any],
    label: str | None = None,
) -> Any:
    """Calls an entry's function.

    Raises:
        RecipeError: if it raises anything that is no error of taster's.
    """
    with user_code(entry):
        try:
            return recipe.factory(kind, entry).make(resources, settings)
        except TasterError:
            raise
        except Exception as error:  # values that their types allow, and that no arithmetic can work with
            if is_import_path(entry.name):
                raise
            shown = label or getattr(entry, "label", entry.name)
            raise RecipeError(
                f"{kind} {shown}: {entry.name} cannot be made with its settings: {type(error).__name__}: {error}"
            ) from error
