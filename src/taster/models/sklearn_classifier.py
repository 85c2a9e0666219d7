"""A scikit-learn classifier."""

from __future__ import annotations

import inspect
from typing import Any

from taster.errors import ModelError
from taster.utils.import_path import import_callable
from taster.utils.settings import validate_settings


@validate_settings
def sklearn(shape: tuple[int, ...], classes: int, *, estimator: str, options: dict[str, Any] | None = None) -> Any:
    """A classifier of scikit-learn's, or another with its methods; for offline recipes, where samples are rows of
    numbers to it.

    Args:
        shape: of a sample; the estimator finds it out by itself.
        classes: number of classes; likewise.
        estimator: the class as package.module:name, "sklearn.svm:LinearSVC" say.
        options: what it is called with.

    Returns:
        an estimator that has not been fitted.

    Raises:
        ModelError: if there is no such class, it cannot be called so, or what comes has no `fit` and `predict`.

    Source: Pedregosa et al. 2011.
    """
    function = import_callable(estimator, ModelError)
    try:
        made = function(**(options or {}))
    except TypeError as error:
        known = ", ".join(inspect.signature(function).parameters)
        raise ModelError(f"options: {estimator} cannot be called with them ({error}); it knows {known}") from error
    for method in ("fit", "predict"):
        if not callable(getattr(made, method, None)):
            raise ModelError(f"estimator: {estimator} has no {method}, wanted a classifier of scikit-learn's")
    return made
