"""Code of the user's own, named in a recipe: what it raises is told with its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from taster.errors import RecipeError, TasterError
from taster.experiments.recipes.schema import Entry
from taster.utils.import_path import is_import_path


@contextmanager
def user_code(entry: Entry) -> Iterator[None]:
    """Names the recipe's entry where code of the user's own raises something. Errors in taster's code pass as they are.

    Raises:
        RecipeError: with the entry's label, its function and what it raised.
    """
    try:
        yield
    except TasterError:
        raise
    except Exception as error:
        if not is_import_path(entry.name):
            raise
        raise RecipeError(f"{entry.label}: {entry.name} raised {type(error).__name__}: {error}") from error
