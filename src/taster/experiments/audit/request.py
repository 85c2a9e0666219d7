"""What a user asks of an audit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from taster.data import Color
from taster.errors import RecipeError
from taster.utils.import_path import is_import_path

Scene = Literal["online", "offline"]
"""Learning from a stream after release, or training on a set from elsewhere."""


@dataclass(frozen=True)
class AuditRequest:
    """A model and data of the user's own.

    Attributes:
        model: "package.module:factory", or the name of a model that comes with taster.
        data: a folder, a file of comma- or tab-separated values, or a hub name.
        weights: a file with a state dict, as safetensors or of torch.save; None: the model is trained on a part of the
            data.
        config: of a hub data set that has several.
        image, label, text: columns by name, those of a table also by position; None: found.
        resize: height and width that images are scaled to.
        color: that images are converted to.
        scene: None: a stream for images, training for tables.
        budget: minutes that the audit may take, about.
        epsilon: how far an attack may move a pixel, of 1. None: 0.1 for gray images, 8/255 for others.
        learning_rate: of the stream and of training. None: found on samples of the burn-in.
        seeds: number of them. None: as many as fit the budget, at most three.
        overrides: "key=value" on the recipe that is made.

    Raises:
        RecipeError: for a model that is no import path and no model of taster's, a budget or seeds out of range.
    """

    model: str
    data: str
    weights: str | None = None
    config: str | None = None
    image: str | None = None
    label: str | None = None
    text: str | None = None
    resize: tuple[int, int] | None = None
    color: Color | None = None
    scene: Scene | None = None
    budget: float = 5.0
    epsilon: float | None = None
    learning_rate: float | None = None
    seeds: int | None = None
    overrides: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        from taster.models import MODELS

        if not is_import_path(self.model) and self.model not in MODELS:
            raise RecipeError(
                f"--model: got {self.model!r}, wanted package.module:factory (a function or class that returns your "
                f"torch.nn.Module, in a file that can be imported from here), or one of {', '.join(MODELS)}"
            )
        if not 0.5 <= self.budget <= 24 * 60:
            raise RecipeError(f"--budget: got {self.budget:g} minutes, wanted 0.5 to 1440")
        if self.epsilon is not None and not 0 < self.epsilon <= 1:
            raise RecipeError(f"--epsilon: got {self.epsilon:g}, wanted more than 0 and at most 1 (of a pixel's range)")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise RecipeError(f"--learning-rate: got {self.learning_rate:g}, wanted a positive number")
        if self.seeds is not None and self.seeds < 1:
            raise RecipeError(f"--seeds: got {self.seeds}, wanted at least 1")
