"""Roles of samples, which say who may see them. No sample has two roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from taster.data.images import Images, ImageSet
from taster.errors import DataError
from taster.utils.seeds import generator

Role = Literal["burn_in", "stream", "train", "trigger", "validation", "monitor", "probe", "test"]
ROLES: tuple[Role, ...] = get_args(Role)


def split_roles(
    data: ImageSet, sizes: Mapping[Role, int | None], seed: int, *, burn_in_seed: int | None = None
) -> dict[Role, Images]:
    """Cuts a data set into roles, disjoint by index.

    Args:
        data: the data set. Its test split, if it has one, serves the role "test" only; all other roles are cut from
            train.
        sizes, seed, burn_in_seed: see `split_indices`.

    Returns:
        the samples of each role.

    Raises:
        DataError: see `split_indices`.
    """
    test = None if data.test is None else len(data.test)
    rows = split_indices(data.name, len(data.train), test, sizes, seed, burn_in_seed=burn_in_seed)
    return {
        role: (data.test if role == "test" and data.test is not None else data.train).select(places)
        for role, places in rows.items()
    }


def split_indices(
    name: str,
    train: int,
    test: int | None,
    sizes: Mapping[Role, int | None],
    seed: int,
    *,
    burn_in_seed: int | None = None,
) -> dict[Role, Tensor]:
    """Cuts places of samples into roles, disjoint.

    Args:
        name: of the data set, for messages.
        train: samples that roles are cut from.
        test: samples of a test split of its own, which serves the role "test" only. None: it has none.
        sizes: number of samples of each role; 0, or left out: the role is empty. None takes the rest: allowed for
            "stream" or "train", and for "test" if the data set has a test split.
        seed: of the random cut.
        burn_in_seed: of the cut that a model was trained on elsewhere: its samples of the role "burn_in", and of that
            alone, stay what they are in a cut by that seed.

    Returns:
        places of each role, int64; of "test" in the test split if there is one.

    Raises:
        DataError: if the roles ask for more samples than there are; the message names the keys.
    """
    wanted = {role: sizes.get(role, 0) for role in ROLES if role != "test" or test is None}
    for role, size in wanted.items():
        if size is None and role not in ("stream", "train"):
            raise DataError(f"split.{role}: {name} has no test split of its own; wanted a number of samples")
    if list(wanted.values()).count(None) > 1:
        raise DataError('split: got the rest for both "stream" and "train", wanted one of them')
    fixed = sum(size for size in wanted.values() if size is not None)
    left = train - fixed
    if left < 0 or (None in wanted.values() and left == 0):
        asked = ", ".join(f"split.{role} = {size}" for role, size in wanted.items() if size)
        raise DataError(f"split: got {asked}: {fixed} samples in all, {name} has {train}; wanted less")
    order = torch.randperm(train, generator=generator(seed if burn_in_seed is None else burn_in_seed, "split"))
    if burn_in_seed not in (None, seed):
        first = wanted["burn_in"] or 0
        others = torch.randperm(len(order) - first, generator=generator(seed, "split"))
        order = torch.cat([order[:first], order[first:][others]])
    roles: dict[Role, Tensor] = {}
    start = 0
    for role, size in wanted.items():
        size = left if size is None else size
        roles[role] = order[start : start + size]
        start += size
    if test is not None:
        size = sizes.get("test")
        if size is not None and size > test:
            raise DataError(f"split.test: got {size}, wanted at most the {test} of {name}'s test split")
        drawn = torch.randperm(test, generator=generator(seed, "split test"))
        roles["test"] = torch.arange(test) if size is None else drawn[:size]
    return roles
