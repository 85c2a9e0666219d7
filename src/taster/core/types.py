"""Types that are named in many places."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Tensors = dict[str, Tensor]
"""Tensors by the name of the parameter (or buffer) they belong to."""

BatchNormMode = Literal["eval", "train"]
"""Normalise with the recorded statistics, or with those of the batch itself."""
