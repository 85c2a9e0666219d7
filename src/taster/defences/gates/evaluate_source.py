"""Measurements by a function of the user's own that evaluates the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.types import Tensors
from taster.core.view import View
from taster.defences.gates.quality_source import described
from taster.errors import GuardError, TasterError

_log = logging.getLogger("taster.core.learner")

EvaluateFn = Callable[[Any], Any]
"""(model) -> [n], or {name: [n]}: how well the model does on each sample; higher is better."""


class EvaluateSource:
    """A function of the user's own that evaluates the model.

    Args:
        stage: name of the gate, for messages.
        evaluate: of the model, in eval mode and without gradients; a copy, which it may do with as it pleases.
    """

    words: Mapping[str, str] = {}
    probe: Batch | None = None
    selectable = False

    def __init__(self, stage: str, evaluate: EvaluateFn) -> None:
        self._stage = stage
        self._evaluate = evaluate
        self._samples: dict[str, tuple[int, bool]] = {}
        self._warned = False

    def check(self, view: View) -> None:
        """Nothing that measuring does not check."""

    def measure(self, view: View, rows: Tensor | None = None) -> Tensors:
        """What the function returns, of all samples or of some.

        Raises:
            GuardError: when it fails, or returns something else than numbers by sample, of as many as before.
        """
        try:
            found = view.evaluate(self._watched)
        except (TasterError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise GuardError(f"{self._stage}: evaluate failed: {error!r}") from error
        named = found if isinstance(found, Mapping) else {"quality": found}
        if not named:
            raise GuardError(f"{self._stage}: evaluate returned nothing, wanted numbers [n], or {{name: numbers}}")
        named_rows = {str(name): self._numbers(str(name), values) for name, values in named.items()}
        sizes = {name: (len(values), values.dtype == torch.bool) for name, values in named_rows.items()}
        if self._samples and sizes != self._samples:
            raise GuardError(
                f"{self._stage}: evaluate returned {_counted(sizes)}, and {_counted(self._samples)} before; wanted the "
                "same samples in the same order each time"
            )
        self._samples = sizes
        return named_rows if rows is None else {name: values[rows] for name, values in named_rows.items()}

    def classes(self) -> Tensor | None:
        """None: it knows no classes."""
        return None

    def _watched(self, model: Any) -> Any:
        """Calls the function, and sees whether it runs the model it is given: another one tells nothing of this."""
        ran: list[bool] = []
        modules = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
        hooks = [module.register_forward_pre_hook(lambda *_: ran.append(True)) for module in modules]
        try:
            return self._evaluate(model)
        finally:
            for hook in hooks:
                hook.remove()
            if modules and not ran and not self._warned:
                self._warned = True
                _log.warning(
                    "%s: evaluate ran no layer of the model that it was given; one that measures another model, from "
                    "outside the function say, cannot see harm: evaluate=lambda model: ... model(x) ...",
                    self._stage,
                )

    def _numbers(self, name: str, values: Any) -> Tensor:
        try:
            rows = torch.as_tensor(values).detach().clone()  # it may be written into at the next call
        except (TypeError, ValueError, RuntimeError):
            rows = torch.empty(0)
        if rows.dim() != 1 or len(rows) < 2 or rows.is_complex() or name == "loss":
            raise GuardError(
                f"{self._stage}: evaluate returned {described(values)} for {name}, wanted one real number for each "
                "sample, [n], higher for better, of two samples or more, and not called loss"
            )
        return rows if rows.is_floating_point() or rows.dtype == torch.bool else rows.double()


def _counted(sizes: Mapping[str, tuple[int, bool]]) -> str:
    return ", ".join(f"{count} {'times yes or no' if yes else 'numbers'} as {n}" for n, (count, yes) in sizes.items())
