"""Tables of an offline recipe: loaded once, fitted for each seed on the rows that are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from taster.data import Role, Rows, Samples, Table, TableSet, fit_numbers, fit_words, load_table, split_indices
from taster.errors import DataError
from taster.experiments.recipes.schema import Recipe, TableSection


def load_recipe_table(recipe: Recipe) -> Table:
    """Loads the recipe's table, once in a process.

    Raises:
        DataError: see `taster.data.load_table`.
    """
    assert recipe.data.table is not None
    if (key := _key(recipe)) in _held:
        return _held[key]
    try:
        return _load(recipe.data.source, _written(recipe.data.source), recipe.data.table.model_dump_json())
    except DataError as error:
        raise DataError(f"data.source: {error}") from error


def hold_recipe_table(recipe: Recipe, table: Table) -> None:
    """Has this process use a table that another has loaded, so that it needs no file of it."""
    _held.clear()
    _held[_key(recipe)] = table


_held: dict[str, Table] = {}


def _key(recipe: Recipe) -> str:
    return recipe.data.model_dump_json(exclude={"class_names"})


@lru_cache(maxsize=1)  # one at a time: a table can be large
def _load(source: str, written: tuple[int, int] | None, section: str) -> Table:
    asked = TableSection.model_validate_json(section)
    table = load_table(
        source,
        label=asked.label,
        text=asked.text,
        ignore=asked.ignore,
        header=asked.header,
        delimiter=asked.delimiter,
        quoted=asked.quoted,
        encoding=asked.encoding,
    )
    return table.without_repeats() if asked.unique else table


def _written(source: str) -> tuple[int, int] | None:
    """When a file was last written, and its size, so that it is read again once it has changed."""
    try:
        found = Path(source).expanduser().stat()
    except (OSError, RuntimeError, ValueError):
        return None  # loading it says what is wrong
    return found.st_mtime_ns, found.st_size


def table_roles(
    table: Table, section: TableSection, sizes: Mapping[Role, int | None], seed: int
) -> tuple[TableSet, dict[Role, Samples]]:
    """Cuts a table into roles and fits its scales or vocabulary on the role "train".

    Raises:
        DataError: for roles that ask for too many rows, and rows that nothing can be fitted on.
    """
    rows = split_indices(table.name, len(table), None, sizes, seed)
    if table.texts is None:
        fitted = fit_numbers(table, rows["train"], scale=section.scale)
    else:
        fitted = fit_words(
            table, rows["train"], features=section.words, max_words=section.max_words, min_rows=section.min_rows
        )
    every = Rows(fitted.x, fitted.y)
    return fitted, {role: every.select(places) for role, places in rows.items()}
