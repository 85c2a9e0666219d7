"""Differentiation methods, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from taster.derivatives.autodiff import Differentiator, DoubleBackward, ForwardOverReverse
from taster.derivatives.finite_differences import FrozenActivationDifferences
from taster.errors import SettingError

Algorithm = Literal["double_backward", "forward_over_reverse", "finite_difference"]

METHOD_NAMES = (
    f"one of {', '.join(get_args(Algorithm))}, optionally followed by bfloat16 (not for forward_over_reverse) and "
    "channels_last"
)
"""The names of methods, for error messages."""

Precision = Literal["float32", "bfloat16"]
"""Of the passes through the network."""

_CHANGES: Mapping[Precision, float] = {"float32": 5e-3, "bfloat16": 0.2}
"""Relative change of a gradient in a finite difference, see `FiniteDifferenceStep`."""


@dataclass(frozen=True)
class DiffMethod:
    """How derivatives are computed.

    Attributes:
        algorithm: "double_backward" and "forward_over_reverse" are automatic differentiation; "finite_difference"
            takes differences of gradients with the activation pattern held fixed.
        precision: of the forward passes, and of backpropagation through them.
        channels_last: whether images and kernels are converted to that memory format.

    Raises:
        SettingError: for an unknown algorithm or precision, or for forward_over_reverse in bfloat16.
    """

    algorithm: Algorithm = "finite_difference"
    precision: Precision = "float32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        known = self.algorithm in get_args(Algorithm) and self.precision in get_args(Precision)
        if not known or (self.algorithm == "forward_over_reverse" and self.precision != "float32"):
            raise _unknown(str(self))

    def __str__(self) -> str:
        words: list[str] = [self.algorithm]
        words += [self.precision] if self.precision != "float32" else []
        words += ["channels_last"] if self.channels_last else []
        return " ".join(words)

    @classmethod
    def parse(cls, text: str) -> DiffMethod:
        """The inverse of `str`: an algorithm, optionally followed by "bfloat16" and "channels_last".

        Raises:
            SettingError: for anything else.
        """
        algorithm, *rest = text.split() or [""]
        if not set(rest) <= {"bfloat16", "channels_last"}:
            raise _unknown(text)
        return cls(
            algorithm,  # type: ignore[arg-type]
            "bfloat16" if "bfloat16" in rest else "float32",
            "channels_last" in rest,
        )

    def differentiator(self) -> Differentiator:
        """A new differentiator by this method."""
        if self.algorithm == "finite_difference":
            return FrozenActivationDifferences(_CHANGES[self.precision])
        return ForwardOverReverse() if self.algorithm == "forward_over_reverse" else DoubleBackward()


def _unknown(got: str) -> SettingError:
    return SettingError(f"derivatives: got {got!r}, wanted {METHOD_NAMES}")
