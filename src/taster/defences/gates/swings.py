"""How much the quantities of a gate have swung at honest steps, and from which drop on the next one is an outlier."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from taster.stats.paired_sums import PairedSums
from taster.stats.swing import Swing

_MULTIPLE = 5.0
"""Scales above the centre of honest changes from which on a change is an outlier; measured on nets that learn with
momentum, whose changes have heavy tails."""

_CLASS = 2.5
"""How much further out a change in one class must be: there are many of them."""

Scales = Mapping[str, np.ndarray]
"""How much each quantity swings: [groups], overall and in each class."""

_FEW = 5
"""Samples of a class under which a look says nothing of it."""


class Swings:
    """How much each quantity has swung, overall and in each class."""

    def __init__(self) -> None:
        self._swings: dict[str, Swing] = {}

    def limits(self, name: str, least: np.ndarray, unknown: np.ndarray, share: float) -> np.ndarray:
        """The drop of a quantity, overall and in each class, from which on the next one is an outlier.

        Args:
            name: of the quantity.
            least: below which no drop is worth a refusal, [groups].
            unknown: the same while there are too few changes to know.
            share: of the scales above the centre that make an outlier.
        """
        multiples = share * outlier_multiples(len(least))
        return self._swings.get(name, Swing.empty(len(least))).limit(least, unknown, multiples)

    def append(self, name: str, sums: PairedSums) -> None:
        """Remembers the changes of a step that was committed."""
        known = np.asarray(sums.count) >= _FEW
        drops = np.array([sums.drop(group) if seen else np.nan for group, seen in enumerate(known)])
        errors = np.array([sums.error(group) if seen else np.nan for group, seen in enumerate(known)])
        self._swings[name] = self._swings.get(name, Swing.empty(sums.groups)).with_change(drops, errors)

    @property
    def known(self) -> bool:
        """Whether there are enough changes to tell."""
        return any(np.isfinite(swing.scale[0]) for swing in self._swings.values())

    def forget_classes(self, groups: int) -> None:
        """Keeps what is known overall, for as many groups as there are now: all samples, and other classes."""
        for name, swing in self._swings.items():
            changes = np.tile([0.0, np.inf], (len(swing.changes), groups, 1))
            changes[:, 0] = swing.changes[:, 0]
            self._swings[name] = Swing(changes)

    def scales(self) -> dict[str, np.ndarray]:
        """The scale of each, overall and in each class; infinite where there were too few to know."""
        return {name: swing.scale for name, swing in self._swings.items()}

    def settled_scales(self) -> dict[str, np.ndarray]:
        """The same; infinite too where there were too few to trust a small one."""
        return {name: swing.settled_scale for name, swing in self._swings.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """All changes."""
        return {name: saved_array(swing.changes) for name, swing in self._swings.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores them."""
        self._swings = {name: Swing(loaded_array(changes)) for name, changes in state.items()}


def outlier_multiples(groups: int) -> np.ndarray:
    """Scales above the centre from which on a change is an outlier, overall and in each class, [groups]."""
    found: np.ndarray = np.where(np.arange(groups) == 0, _MULTIPLE, _CLASS * _MULTIPLE)
    return found


def saved_array(array: np.ndarray) -> Tensor:
    """An array as states hold it: a tensor, which a checkpoint can take."""
    return torch.from_numpy(array)


def loaded_array(saved: Tensor) -> np.ndarray:
    """What `saved_array` was given; a checkpoint may have brought it to the model's device."""
    found: np.ndarray = saved.detach().cpu().numpy()
    return found
