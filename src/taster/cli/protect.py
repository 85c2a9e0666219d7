"""`taster protect`."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from taster.cli.app import AsJson, Quiet, to_path
from taster.cli.console import ProgressBars, print_message, print_nothing, progress_display, result_console
from taster.errors import AttackError, DataError

if TYPE_CHECKING:
    from taster.experiments.protect import Measurement


def protect(
    images: Annotated[
        Path | None,
        typer.Argument(
            parser=to_path,
            metavar="IMAGES",
            help="Folder with a sub-folder of PNG, JPEG or WebP images for each class. With --check: the originals.",
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="What makes the noise; a name that is none lists them.")
    ] = "error_minimising_noise",
    out: Annotated[
        Path | None, typer.Option(parser=to_path, metavar="DIR", help="Folder to write; a new one, or see --force.")
    ] = None,
    epsilon: Annotated[
        str, typer.Option(metavar="NUMBER|N/255", help="By how much a value of a pixel may change, of 1.")
    ] = "8/255",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; taster show NAME lists them."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            help="Size that the noise is made at. By default that of the images, where all have one of at most 64 "
            "pixels a side, else 32x32; then it is enlarged.",
        ),
    ] = None,
    strip_exif: Annotated[
        bool, typer.Option("--strip-exif/--keep-exif", help="Copies without EXIF (place, time, camera), or with it.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Train nets to tell what a scraper would learn.")
    ] = True,
    countermeasures: Annotated[
        bool,
        typer.Option("--countermeasures/--no-countermeasures", help="Also what one would who knows of such noise."),
    ] = True,
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Of each of these trainings.")] = 15,
    seeds: Annotated[int, typer.Option(min=1, max=20, help="Trainings of each kind.")] = 3,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of all that is drawn.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder, if taster protect wrote it and nothing else is there.")
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option(parser=to_path, metavar="DIR", help="Write nothing: check a folder that taster protect wrote."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write copies of images that nets learn little from, and a page that says how little, and what undoes it.

    Originals are only read. The copies are PNG files of the same names in DIR/images; the page is DIR/protect.html.
    """
    if check is not None:
        _check(check, images, as_json=as_json, quiet=quiet)
        return
    from taster.experiments.protect import ProtectRequest, check_classes, find_method, protect_folder
    from taster.experiments.protect import measure as measure_protection
    from taster.experiments.protect.image_files import find_images
    from taster.experiments.protect.manifest import PAGE
    from taster.experiments.protect.measure import trainings
    from taster.report.protect_page import write_protect_page
    from taster.utils.allocator import retain_freed_memory

    retain_freed_memory()
    request = ProtectRequest(
        _given("IMAGES", images),
        _given("--out", out),
        find_method(method, epsilon=_epsilon(epsilon), settings=_settings(settings or [])),
        None if size is None else _size(size),
        strip_exif,
        force,
        seed,
    )
    if measure:
        check_classes(find_images(request.images))  # before anything is written
    say = print_nothing if quiet else print_message
    found: Measurement | None = None
    with progress_display(quiet) as progress:
        task = progress.add_task("noise", total=None)
        protection = protect_folder(request)
        progress.remove_task(task)
        say(f"The copies: {len(protection.found)} in {request.out / 'images'}")
        if protection.found.others:
            say(f"left alone: {protection.found.others} other files")
        if measure:
            bars = ProgressBars(progress)
            bars.begin("trainings", trainings(protection, seeds, with_countermeasures=countermeasures))

            def on_first(first: Measurement) -> None:
                if countermeasures and not quiet and not as_json:
                    result_console().print(_table(first))

            found = measure_protection(
                protection,
                epochs=epochs,
                seeds=seeds,
                with_countermeasures=countermeasures,
                on_first=on_first,
                on_training=lambda done: bars.step("trainings", done, "small nets"),
            )
        write_protect_page(protection, found)
    if as_json:
        typer.echo(json.dumps(_as_json(found)))
    elif found is not None and not quiet:
        result_console().print(_table(found))
    say(f"The page: {request.out / PAGE}")


def _check(folder: Path, originals: Path | None, *, as_json: bool, quiet: bool) -> None:
    """Raises DataError for a folder that is not what was written."""
    from taster.experiments.protect import check_folder

    found = check_folder(folder, originals)
    if as_json:
        typer.echo(json.dumps({"files": len(found.manifest.files), "faults": found.faults, "greatest": found.greatest}))
    if found.faults:
        raise DataError(f"{folder}: {len(found.faults)} faults\n" + "\n".join(found.faults))
    if not quiet and not as_json:
        near = "" if found.greatest is None else f"; at most {found.greatest:.4g} of 1 from the originals"
        bound = f"{found.manifest.epsilon:.4g}"
        near += f" (ε {bound})" if near else ""
        result_console().print(
            f"{folder}: {len(found.manifest.files)} copies, all there and unchanged{near}", soft_wrap=True
        )


def _table(found: Measurement) -> Table:
    from taster.experiments.protect.measure import KINDS

    table = Table(
        title=f"accuracy on {found.tested} clean images, %  (chance {found.chance:.0f})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("countermeasure")
    for kind in KINDS:
        table.add_column(kind, justify="right")
    for name, scores in found.scores.items():
        table.add_row(name, *(f"{scores[kind].accuracy:.0f}" for kind in KINDS))
    return table


def _as_json(found: Measurement | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "trained": found.trained,
        "trusted": found.trusted,
        "tested": found.tested,
        "chance": found.chance,
        "accuracy": {
            name: {kind: score.accuracy for kind, score in scores.items()} for name, scores in found.scores.items()
        },
    }


def _given(what: str, path: Path | None) -> Path:
    if path is None:
        raise DataError(f"{what}: got nothing, wanted a folder; as in taster protect photos --out protected")
    return path


def _epsilon(text: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(?:/\s*(\d+))?\s*", text)
    if found is None or not float(found[2] or 1):
        raise AttackError(f"--epsilon: got {text!r:.80}, wanted a number from 0 to 1, as 0.03, or a fraction, as 8/255")
    value = float(found[1]) / float(found[2] or 1)
    if math.isnan(value):  # of two numbers that are too large
        value = math.inf
    if value > 1:
        raise AttackError(f"--epsilon: got {text!r:.80}, which is {value:g}; wanted at most 1, as 8/255")
    return value


def _settings(given: list[str]) -> dict[str, Any]:
    from taster.experiments.recipes.overrides import apply_override

    found: dict[str, Any] = {}
    for one in given:
        apply_override(found, one)
    return found


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,4})[x×,](\d{1,4})", text.strip())
    if found is None or not min(int(found[1]), int(found[2])) >= 8:
        raise DataError(f"--size: got {text!r:.80}, wanted HEIGHTxWIDTH in pixels, from 8, such as 32x32")
    return int(found[1]), int(found[2])
