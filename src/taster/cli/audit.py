"""`taster audit`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from taster.cli.app import AsJson, Quiet, to_path
from taster.cli.console import ProgressBars, print_message, print_nothing, progress_display, result_console
from taster.cli.run import choose_directory, write_page
from taster.cli.tables import print_outcome, print_table
from taster.errors import RecipeError

if TYPE_CHECKING:
    from taster.experiments import Recipe
    from taster.experiments.audit import AuditRequest
    from taster.experiments.scenarios.context import BurntIn


def audit(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE.MODULE:FACTORY",
            help="Function or class that returns your torch.nn.Module; it may have parameters (shape, classes).",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|CSV|NAME",
            help="A folder with a sub-folder of images for each class, or of save_to_disk; a CSV file with columns "
            "path,label, or of numbers, or of texts (--text); or the name of a data set of the Hugging Face hub.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="State dict, as safetensors or of torch.save. Without: the model is trained on a part of the data.",
        ),
    ] = None,
    resize: Annotated[str | None, typer.Option(metavar="HEIGHTxWIDTH", help="Scale every image to this size.")] = None,
    color: Annotated[str | None, typer.Option(metavar="gray|rgb", help="Convert every image to this.")] = None,
    image: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of images, or of their paths.")] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column of the labels; of a table by default that called label, else the last."
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of the texts of a table; a number is a position, as for --label."),
    ] = None,
    config: Annotated[str | None, typer.Option(metavar="NAME", help="Which of several sets under a hub name.")] = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            metavar="online|offline",
            help="Learning on from a stream (the default for images), or training on a set (for tables).",
        ),
    ] = None,
    budget: Annotated[float, typer.Option(metavar="MINUTES", help="About how long it may take.")] = 5.0,
    epsilon: Annotated[
        float | None,
        typer.Option(help="How far an attack may move a pixel, of 1; by default 0.1 for gray images, 8/255 for color."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of your training and stream; by default one is found that fits.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=100, help="By default what fits the budget, up to 10.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe that is made; see taster run."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=to_path, metavar="PATH", help="Run directory; by default a new one, runs/audit-NAME, and so on."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the audit in the directory (--out), as taster run does.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Attack a model of your own on data of your own, behind several defences, in minutes; no recipe is needed.

    A first table comes within seconds. The page, the table and the recipe that was made are left in the run directory;
    taster run on that recipe.toml does the same again.
    """
    from taster.experiments import RunDirectory, run_recipe
    from taster.experiments.audit import AuditRequest
    from taster.utils.allocator import retain_freed_memory

    retain_freed_memory()
    if resume and out is None:
        raise RecipeError("--resume: got no --out, wanted the directory of the audit to go on with")
    say = print_nothing if quiet else print_message
    there = out is not None and not RunDirectory(out).is_free()
    with progress_display(quiet) as progress:
        bars = ProgressBars(progress)
        if there and out is not None:
            recipe, burnt_in = _recipe_to_continue(out, resume), None
            say(f"goes on with {out / 'recipe.toml'}, whatever other options say")
        else:
            request = AuditRequest(
                model=_given("--model", model),
                data=_given("--data", data),
                weights=weights,
                config=config,
                image=image,
                label=label,
                text=text,
                resize=None if resize is None else _size(resize),
                color=_one_of("--color", color, ("gray", "rgb")),
                scene=_one_of("--scenario", scenario, ("online", "offline")),
                budget=budget,
                epsilon=epsilon,
                learning_rate=learning_rate,
                seeds=seeds,
                overrides=overrides or [],
            )
            recipe, burnt_in = _plan(request, bars, say, show=not quiet and not as_json)
        directory = choose_directory(recipe.name, out, resume=False)
        try:
            rows = run_recipe(recipe, directory, resume=there, burnt_in=burnt_in, progress=bars)
        except KeyboardInterrupt:
            print_message(f"stopped; go on with: taster audit --resume --out {directory}")
            raise typer.Exit(130) from None
        failed = RunDirectory(directory).failures(recipe)
        page = write_page(directory, progress) if rows or not failed else None
    print_outcome(recipe, rows, page, quiet=quiet, as_json=as_json, failed=failed)
    for text in _what_was_too_weak(directory) if page is not None else []:
        say(f"{text} Or try a longer --budget, such as {max(20, 4 * budget):g}.")
    say(f"The recipe: {directory / 'recipe.toml'}")
    if failed:
        raise typer.Exit(1)


def _plan(
    request: AuditRequest, bars: ProgressBars, say: Callable[[str], None], *, show: bool
) -> tuple[Recipe, Mapping[int, BurntIn]]:
    """The recipe of the suite and the burn-ins that are done, after the first look, whose table is printed if it is to
    be shown."""
    from taster.experiments.audit import Audit

    looked_at = Audit(request, bars, say)
    first, rows = looked_at.first_pass()
    if show:
        print_table(first, rows, result_console(), title="a first look, with few steps and one seed")
    recipe = looked_at.recipe()
    return recipe, looked_at.burnt_in


def _what_was_too_weak(directory: Path) -> list[str]:
    """What the page warns of where no attack moved anything."""
    from taster.experiments import RunDirectory
    from taster.report.cautions import nothing_moved
    from taster.report.data import ReportData

    return list(nothing_moved(ReportData.read(RunDirectory(directory))))


def _recipe_to_continue(out: Path, resume: bool) -> Recipe:
    """The recipe of the audit in the directory.

    Raises:
        RunDirectoryError: if it is not to be continued, or holds something else.
    """
    from taster.errors import RunDirectoryError
    from taster.experiments import RunDirectory

    run = RunDirectory(out)
    if not resume:
        hint = "go on with --resume" if run.exists() else "it is not a run directory"
        raise RunDirectoryError(f"{out}: not empty ({hint}); wanted a new or empty directory")
    return run.recipe()


def _given(option: str, value: str | None) -> str:
    if value is None:
        raise RecipeError(f"{option}: got nothing, wanted one; as in taster audit --model my_model:make --data photos")
    return value


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})[x×,](\d{1,5})", text.strip())
    if found is None:
        raise RecipeError(f"--resize: got {text!r}, wanted HEIGHTxWIDTH in pixels, such as 32x32")
    return int(found[1]), int(found[2])


Choice = TypeVar("Choice", bound=str)


def _one_of(option: str, value: str | None, choices: tuple[Choice, ...]) -> Choice | None:
    for choice in choices:
        if value == choice:
            return choice
    if value is not None:
        raise RecipeError(f"{option}: got {value!r}, wanted {' or '.join(choices)}")
    return None
