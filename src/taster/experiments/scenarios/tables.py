"""Tables of a recipe: loaded once, fitted for each seed on the rows that the model is trained on first."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from torch import Tensor

from taster.data import (
    Role,
    Rows,
    Samples,
    Table,
    TableSet,
    TokenSet,
    fit_numbers,
    fit_tokens,
    fit_words,
    load_table,
    split_indices,
)
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


def table_roles(table: Table, recipe: Recipe, seed: int) -> tuple[TableSet | TokenSet, dict[Role, Samples]]:
    """Cuts a table into roles and fits its scales or vocabulary on the rows of the burn-in; without one on those of the
    role "train".

    On a stream values beyond those of the burn-in become the nearest of these: a model in use has a range of inputs
    that it takes.

    Raises:
        DataError: for roles that ask for too many rows, and rows that nothing can be fitted on.
    """
    assert recipe.data.table is not None
    sizes = recipe.split_sizes()
    rows = split_indices(table.name, len(table), None, sizes, seed, burn_in_seed=recipe.burn_in.split_seed)
    fitted = _fitted(table, recipe.data.table, rows["burn_in"] if sizes["burn_in"] else rows["train"])
    x = fitted.x if recipe.offline is not None else fitted.x.clamp(*fitted.value_range).to(fitted.x.dtype)
    every = Rows(x, fitted.y)
    return fitted, {role: every.select(places) for role, places in rows.items()}


def _fitted(table: Table, section: TableSection, rows: Tensor) -> TableSet | TokenSet:
    if table.texts is None:
        return fit_numbers(table, rows, scale=section.scale)
    most, least = section.max_words, section.min_rows
    if section.words == "tokens":
        return fit_tokens(table, rows, length=section.length, max_words=most, min_rows=least)
    return fit_words(table, rows, features=section.words, max_words=most, min_rows=least)
