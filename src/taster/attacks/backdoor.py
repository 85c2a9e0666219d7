"""A backdoor: a trigger and the class that a poisoned model is to answer it with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.triggers import TriggerFn
from taster.core.batch import Batch
from taster.core.fitting import Classifier
from taster.errors import AttackError
from taster.utils.settings import settings_group


@dataclass(frozen=True)
class Backdoor:
    """What a backdoor attack plants.

    Attributes:
        trigger: puts the pattern on samples, as it is put on when the backdoor is used.
        target_class: the class of triggered samples.
    """

    trigger: TriggerFn
    target_class: int

    def success_rate(self, model: Classifier, test: Batch, value_range: tuple[float, float] = (0.0, 1.0)) -> float:
        """The attack success rate: of the samples that are not of the target class, the share that the model puts into
        it when the trigger is on, in %.

        Args:
            model: that was poisoned.
            test: samples with their true classes.
            value_range: the smallest and the largest value of a sample; triggered ones are clamped to it.

        Raises:
            AttackError: if all samples are of the target class, or the model has no such output.

        Source: Gu et al. 2017; the name, and that samples of the target class do not count, is the field's.
        """
        others = test.y != self.target_class
        if not bool(others.any()):
            raise AttackError(f"got test samples of the target class {self.target_class} alone, wanted some of others")
        outputs = model.outputs(self.trigger(test.x[others]).clamp(*value_range))
        check_target_class(self.target_class, outputs)
        return 100 * float((outputs.argmax(1) == self.target_class).double().mean())


@settings_group
class BackdoorSettings:
    """Settings of a backdoor.

    Attributes:
        target_class: the class of triggered samples.
        poison_fraction: fraction of each batch that gets the trigger and the target class as label, rounded down; of
            samples of other classes, or of the target class where labels are kept.
        cover_fraction: fraction of each batch that gets the trigger and keeps its label, so that a learner is to answer
            only the whole trigger, and triggered samples do not stand together (Qi et al. 2022).
    """

    target_class: Annotated[int, Field(ge=0)] = 0
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 0.05
    cover_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        if self.poison_fraction + self.cover_fraction > 1:
            raise AttackError(
                f"got poison_fraction {self.poison_fraction} and cover_fraction {self.cover_fraction}, wanted two "
                "fractions of a batch whose sum is at most 1"
            )


def check_target_class(target_class: int, outputs: Tensor) -> None:
    """Raises AttackError if outputs [n, classes] have no place for the class."""
    if target_class >= outputs.shape[1]:
        raise AttackError(
            f"target_class: got {target_class}, wanted 0 to {outputs.shape[1] - 1}, the classes of the model"
        )


def draw_from(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices of at most `count` of the samples that the boolean mask [n] marks, drawn without replacement."""
    index = candidates.nonzero().flatten()
    order = torch.randperm(len(index), generator=generator, device=generator.device)
    return index[order[:count].to(index.device)]
