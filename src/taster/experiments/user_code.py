"""Errors of the user's own functions, named in a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from taster.errors import RecipeError, TasterError
from taster.experiments.recipes.schema import Entry, Named
from taster.utils.import_path import is_import_path


@contextmanager
def user_code(*entries: Named) -> Iterator[None]:
    """Names the entry and its function when a function of the user's own raises.

    Args:
        entries: whose functions may be running, the innermost first. Nothing is changed about what taster's own raise.

    Raises:
        RecipeError: with the entry's label, its function and what it raised, `SystemExit` included.
    """
    try:
        yield
    except TasterError:
        raise
    except (Exception, SystemExit) as error:
        own = next((entry for entry in entries if is_import_path(entry.name)), None)
        if own is None:
            raise
        label = f"{own.label}: " if isinstance(own, Entry) else ""
        raise RecipeError(f"{label}{own.name} raised {type(error).__name__}: {error}") from error
