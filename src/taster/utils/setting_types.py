"""Types of settings that several attacks, defences and scores have, with their bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

_MOST = 10**9

Count = Annotated[int, Field(ge=0, le=_MOST)]
"""A number of steps or samples that may be 0."""

PositiveCount = Annotated[int, Field(ge=1, le=_MOST)]
"""A number of steps or samples that may not be 0."""

Window = Annotated[int, Field(ge=1, le=10**6)]
"""How many past values are kept."""

Points = Annotated[float, Field(ge=0, le=100)]
"""Percentage points."""

Alpha = Annotated[float, Field(gt=0, lt=1)]
"""A significance level, as a fraction."""

Quantile = Annotated[float, Field(ge=0, le=1)]
"""A quantile, as a fraction."""

NonNegative = Annotated[float, Field(ge=0)]
"""A number of at least 0, such as the radius of a norm ball."""

PositiveFloat = Annotated[float, Field(gt=0)]
"""A positive number."""

ModelRef = str | PositiveCount
"""An earlier model: the label of a snapshot, or a number of steps back."""
