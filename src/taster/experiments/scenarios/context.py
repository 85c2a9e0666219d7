"""What the cells of a grid are computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NotRequired

import torch
from torch import Tensor
from typing_extensions import TypedDict

from taster.core.batch import Batch
from taster.data import DataInfo, Images, Role, Samples, as_batch
from taster.experiments.recipes.schema import Defence, Entry, Recipe
from taster.experiments.results import CellKey

_NOT_BATCHES: tuple[Role, ...] = ("burn_in", "stream", "train")


class BurntIn(TypedDict):
    """A seed's state after its burn-in: that of a `Learner`, as `Learner.state_dict` has it, from which every cell of
    the seed starts."""

    model: dict[str, Tensor]
    """Parameters and buffers by name."""
    optimizer: dict[str, Any]
    """The state of torch's optimizer: momentum, which the stream starts with unless `stream.fresh_optimizer`."""
    guard: dict[str, Any]
    """Of the empty guard that the burn-in runs with; a cell replaces it by its own."""
    snapshots: dict[str, Any]
    """Snapshots labelled "epoch-N" (`burn_in.keep_epochs`) or as in `burn_in.earlier`."""
    steps: int
    """0: steps are counted from the start of the stream."""
    refused: int
    """0: a burn-in with a refused step is an error."""
    counters: dict[str, Any]
    """Of the learner's alarm; none have been counted."""
    scaler: None
    """No gradient scaler."""
    schedulers: list[Any]
    """Empty: no learning-rate schedulers."""
    surrogates: NotRequired[dict[str, dict[str, Tensor]]]
    """Parameters and buffers of each `[[surrogate]]`, by its label."""


@dataclass(frozen=True)
class SeedContext:
    """What all cells of a seed share.

    Attributes:
        recipe: what is run.
        data: its data set.
        roles: the seed's samples of each role, on the CPU; disjoint.
        seed: of the run.
        device: everything is computed on.
    """

    recipe: Recipe
    data: DataInfo
    roles: Mapping[Role, Samples]
    seed: int
    device: torch.device

    def images(self, role: Role) -> Images:
        """The samples of a role, where they can be nothing but images."""
        found = self.roles[role]
        assert isinstance(found, Images), role
        return found

    @cached_property
    def batches(self) -> dict[Role, Batch]:
        """Each role's samples as one batch on the device, but for those that are trained on, and roles without any."""
        return {
            role: as_batch(images).to(self.device)
            for role, images in self.roles.items()
            if role not in _NOT_BATCHES and len(images)
        }

    @cached_property
    def training_samples(self) -> Batch:
        """The samples of the burn-in as one batch on the device."""
        return as_batch(self.roles["burn_in"]).to(self.device)

    @cached_property
    def training_set(self) -> Batch:
        """The samples that an offline recipe trains on, before any attack, as one batch on the device."""
        return as_batch(self.roles["train"]).to(self.device)


@dataclass(frozen=True)
class CellContext(SeedContext):
    """What one cell is computed from: one attack against one defence with one seed.

    Attributes:
        burnt_in: the state that it starts from.
        attack, defence: entries of the recipe.
    """

    burnt_in: BurntIn
    attack: Entry
    defence: Defence

    @property
    def cell_key(self) -> CellKey:
        """What tells the cell apart."""
        return CellKey(attack=self.attack.label, defence=self.defence.label, seed=self.seed)
