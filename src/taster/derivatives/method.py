"""How derivatives are computed, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from taster.derivatives.autodiff import Differentiator, DoubleBackward, ForwardOverReverse
from taster.derivatives.finite_differences import FrozenActivationDifferences
from taster.errors import SettingError

Algorithm = Literal["double_backward", "forward_over_reverse", "finite_difference"]

METHOD_NAMES = (
    f"one of {', '.join(get_args(Algorithm))}, followed by bfloat16 (not for forward_over_reverse) or channels_last where "
    "they apply"
)
"""What the name of a way can be, for people."""

Precision = Literal["float32", "bfloat16"]
"""Of the passes through the network."""

_CHANGES: Mapping[Precision, float] = {"float32": 5e-3, "bfloat16": 0.2}
"""Share by which a gradient changes in a held difference; see `taster.derivatives.finite_differences.Stride`."""


@dataclass(frozen=True)
class DiffMethod:
    """How derivatives are computed.

    Attributes:
        method: "double_backward" and "forward_over_reverse" are automatic differentiation; "finite_difference" takes
            differences with every kink held.
        precision: of the forward passes and what is backpropagated through them.
        channels_last: whether images and kernels are laid out so meanwhile.

    Raises:
        SettingError: for an unknown method or precision, and for forward_over_reverse in bfloat16.
    """

    algorithm: Algorithm = "finite_difference"
    precision: Precision = "float32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        known = self.algorithm in get_args(Algorithm) and self.precision in get_args(Precision)
        if not known or (self.algorithm == "forward_over_reverse" and self.precision != "float32"):
            raise _unknown(str(self))

    @property
    def is_exact(self) -> bool:
        """Whether only the rounding of float32 lies between it and the true derivative."""
        return self.algorithm != "finite_difference" and self.precision == "float32"

    def __str__(self) -> str:
        words: list[str] = [self.algorithm]
        words += [self.precision] if self.precision != "float32" else []
        words += ["channels_last"] if self.channels_last else []
        return " ".join(words)

    @classmethod
    def parse(cls, text: str) -> DiffMethod:
        """From what `str` gives: a method, then "bfloat16" and "channels_last" where they apply.

        Raises:
            SettingError: for anything else.
        """
        method, *rest = text.split() or [""]
        if not set(rest) <= {"bfloat16", "channels_last"}:
            raise _unknown(text)
        return cls(
            method,  # type: ignore[arg-type]
            "bfloat16" if "bfloat16" in rest else "float32",
            "channels_last" in rest,
        )

    def differentiator(self) -> Differentiator:
        """A new one of this way's method."""
        if self.algorithm == "finite_difference":
            return FrozenActivationDifferences(_CHANGES[self.precision])
        return ForwardOverReverse() if self.algorithm == "forward_over_reverse" else DoubleBackward()


def _unknown(got: str) -> SettingError:
    return SettingError(f"derivatives: got {got!r}, wanted {METHOD_NAMES}")
