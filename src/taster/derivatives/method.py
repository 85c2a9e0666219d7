"""How derivatives are computed, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from taster.derivatives.autodiff import Differentiator, DoubleBackward, ForwardOverReverse
from taster.derivatives.finite_differences import HeldDifferences
from taster.errors import SettingError

Method = Literal["double_backward", "forward_over_reverse", "held_difference"]

WAYS = (
    f"one of {', '.join(get_args(Method))}, followed by bfloat16 (not for forward_over_reverse) or channels_last where "
    "they apply"
)
"""What the name of a way can be, for people."""

Precision = Literal["float32", "bfloat16"]
"""Of the passes through the network."""

_CHANGES: Mapping[Precision, float] = {"float32": 5e-3, "bfloat16": 0.2}
"""Share by which a gradient changes in a held difference; see `taster.derivatives.finite_differences.Stride`."""


@dataclass(frozen=True)
class Way:
    """How derivatives are computed.

    Attributes:
        method: "double_backward" and "forward_over_reverse" are automatic differentiation; "held_difference" takes
            differences with every kink held.
        precision: of the forward passes and what is backpropagated through them.
        channels_last: whether images and kernels are laid out so meanwhile.

    Raises:
        SettingError: for an unknown method or precision, and for forward_over_reverse in bfloat16.
    """

    method: Method = "held_difference"
    precision: Precision = "float32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        known = self.method in get_args(Method) and self.precision in get_args(Precision)
        if not known or (self.method == "forward_over_reverse" and self.precision != "float32"):
            raise _unknown(str(self))

    @property
    def exact(self) -> bool:
        """Whether only the rounding of float32 lies between it and the true derivative."""
        return self.method != "held_difference" and self.precision == "float32"

    def __str__(self) -> str:
        words: list[str] = [self.method]
        words += [self.precision] if self.precision != "float32" else []
        words += ["channels_last"] if self.channels_last else []
        return " ".join(words)

    @classmethod
    def parse(cls, text: str) -> Way:
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
        if self.method == "held_difference":
            return HeldDifferences(_CHANGES[self.precision])
        return ForwardOverReverse() if self.method == "forward_over_reverse" else DoubleBackward()


def _unknown(got: str) -> SettingError:
    return SettingError(f"derivatives: got {got!r}, wanted {WAYS}")
