"""`taster list` and `taster show`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.measure import Measurement
from rich.table import Table

from taster.cli.app import AsJson
from taster.cli.console import result_console


def list_all(
    as_json: AsJson = False,
    as_markdown: Annotated[
        bool,
        typer.Option(
            "--markdown",
            help="Print Markdown on standard output: docs/catalogue.md (with --threat docs/threats.md) is made by it.",
        ),
    ] = False,
    threat: Annotated[
        bool, typer.Option("--threat", help="What each attack does and each defence answers, see docs/threats.md.")
    ] = False,
) -> None:
    """List attacks, defences, scores, models and recipes, each with its source; or the threats among them."""
    if threat:
        _list_threats(as_json, as_markdown)
        return
    from taster.experiments.recipes.catalogue import by_setting, catalogue, catalogue_markdown

    entries = catalogue()
    if as_json or as_markdown:
        typer.echo(json.dumps(entries) if as_json else catalogue_markdown(entries), nl=as_json)
        return
    console = result_console()
    groups = {
        f"{kind} for {served}" if served else kind: some
        for kind, members in entries.items()
        for served, some in by_setting(members).items()
    }
    for heading, members in groups.items():
        table = Table(title=heading, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        table.add_column("name", style="bold", no_wrap=True)
        table.add_column("what it is", ratio=3)
        table.add_column("source", ratio=2)
        for member in members:
            table.add_row(member["name"], member["summary"], member["source"])
        console.print(table)
        console.print()
    console.print("Your own: package.module:function in place of a name. Settings of a recipe: taster show RECIPE.")


def _list_threats(as_json: bool, as_markdown: bool) -> None:
    from taster.experiments.recipes.threats import threat_table, threats, threats_markdown

    entries = threats()
    if as_json or as_markdown:
        typer.echo(json.dumps(entries) if as_json else threats_markdown(entries), nl=as_json)
        return
    console = result_console()
    for layer, rows in entries.items():
        if not rows:
            continue
        headings, texts = threat_table(layer, rows)
        table = _threat_table(layer, headings, texts)
        if Measurement.get(console, console.options, table).maximum >= console.width:
            # Rich would cut the longest words and leave spaces elsewhere.
            table = _threat_table(layer, headings, [[text.replace(" ", "\n") for text in line] for line in texts])
        console.print(table)
        console.print()
    console.print("The influence of all attacks is causative: they act on training. The words: docs/threats.md.")


def _threat_table(layer: str, headings: list[str], texts: list[list[str]]) -> Table:
    table = Table(title=layer, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        is_name = heading == "name"
        table.add_column(heading, style="bold" if is_name else "", no_wrap=is_name, overflow="fold")
    for line in texts:
        table.add_row(*line)
    return table


def show(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe or path of a TOML file.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Show it with a value changed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a whole recipe, every default filled in, as TOML that can be saved, changed and run."""
    from taster.experiments import read_recipe

    found = read_recipe(recipe, overrides)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json", exclude_none=True)))
    else:
        typer.echo(found.to_toml(), nl=False)
