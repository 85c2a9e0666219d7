"""What is checked of a user's model, weights and data before anything is computed, and what is said of mistakes."""

from __future__ import annotations

from taster.errors import CheckpointError, ModelError, RecipeError
from taster.experiments.audit.findings import Findings
from taster.experiments.audit.request import AuditRequest
from taster.experiments.recipes.schema import Recipe
from taster.experiments.running.dry_run import dry_run
from taster.experiments.running.progress import DecodingProgress, Progress
from taster.experiments.running.tasks import seed_context
from taster.experiments.scenarios.burn_in import make_model
from taster.experiments.scenarios.context import SeedContext
from taster.experiments.scenarios.weights import read_weights
from taster.utils.import_path import import_callable, is_import_path


def check_scene(request: AuditRequest, findings: Findings, scene: str) -> None:
    """Raises RecipeError for a scene that the data or the weights do not fit."""
    if scene == "online" and findings.scene == "offline":
        raise RecipeError(f"--scenario: got online with {findings.kind}, wanted offline: a stream is of images")
    if scene == "offline" and request.weights is not None:
        raise RecipeError(
            "--weights: got some with training on a set, which starts from random weights; wanted none, or for images "
            "--scenario online"
        )


def check_files(request: AuditRequest) -> None:
    """Imports the model's function and reads the weights, so that what is missing shows before data are decoded.

    Raises:
        ModelError: if there is no such module or function.
        CheckpointError: see `read_weights`.
    """
    if is_import_path(request.model):
        try:
            import_callable(request.model, ModelError)
        except ModelError as error:
            raise ModelError(f"--model: {error}") from error
    if request.weights is not None:
        try:
            read_weights(request.weights)
        except CheckpointError as error:
            raise CheckpointError(f"--weights: {error}") from error


def checked_context(draft: Recipe, findings: Findings, progress: Progress) -> SeedContext:
    """The context of the first seed, after everything has been made once.

    Raises:
        ModelError: with what the user can do about it.
        DataError, CheckpointError, RecipeError: see `dry_run`.
    """
    context = seed_context(draft, draft.seeds[0], DecodingProgress(progress))
    try:
        make_model(draft, context.data.shape, context.data.classes, context.device)
    except ModelError as error:
        raise ModelError(f"--model: {_without_key(error)}") from error
    try:
        return dry_run(draft, progress)
    except ModelError as error:
        raise ModelError(f"--model: {_without_key(error)}\n{_what_models_get(findings)}") from error
    except CheckpointError as error:
        raise CheckpointError(f"--weights: {error}") from error


def _without_key(error: ModelError) -> str:
    return str(error).removeprefix("model.name: ")


def _what_models_get(findings: Findings) -> str:
    told = "A factory with the parameters (shape, classes) is told both."
    classes = (
        f"The data have {findings.classes} classes{': ' + ', '.join(findings.names[:12]) if findings.names else ''}"
    )
    if "table" in findings.section:
        return f"Rows come as [n, columns], scaled to [0, 1]. {classes}. {told}"
    return (
        "Images come as [n, channels, height, width] in [0, 1]; --resize HEIGHTxWIDTH and --color gray or rgb make "
        f"others of them. {classes}. {told}"
    )
