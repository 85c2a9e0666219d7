"""Imports of user-defined objects by "package.module:name"."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from taster.errors import TasterError


def is_import_path(text: str) -> bool:
    """Whether a text has the form package.module:name."""
    module, _, name = text.partition(":")
    return bool(name) and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])


def import_callable(text: str, error: type[TasterError]) -> Callable[..., Any]:
    """The callable at package.module:name. Modules in the working directory are found as well.

    Raises:
        error: if there is no such module or name, the module fails to import or exits, or the object is not callable.
    """
    module_name, _, name = text.partition(":")
    try:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as cause:  # a user's module can raise anything while it is imported
        raise error(f"{text}: cannot be imported ({type(cause).__name__}: {cause})") from cause
    if not callable(found):
        raise error(f"{text}: got a {type(found).__name__}, wanted a function or class")
    return found  # type: ignore[no-any-return]
