"""Burn-ins kept on disk for every recipe that needs the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, cast

import torch

from taster.data.cache import cache_directory, cached_file
from taster.experiments.code_digest import code_digest
from taster.experiments.scenarios.context import BurntIn, SeedContext
from taster.utils.import_path import is_import_path


def cached_burn_in(context: SeedContext, train: Callable[[], BurntIn]) -> BurntIn:
    """Returns what `train` does, read from disk if the same burn-in has been made before.

    It is the same if images, model, `[burn_in]`, the rest of what decides its bits (precision, threads, device,
    `deterministic`), seed, torch and taster's own code are.
    Burn-ins of a user's own model, whose code can change unseen, and weights from a checkpoint are not kept.

    Args:
        context: of the seed.
        train: makes the burn-in.
    """
    if is_import_path(context.recipe.model.name) or context.recipe.burn_in.checkpoint is not None:
        return train()
    path = cache_directory() / "burn-in" / f"{_key(context)}.safetensors"
    state: BurntIn = cached_file(path, "burn-in", train, pack=lambda state: state, unpack=_unpack)
    return state


def _unpack(state: Any) -> BurntIn:
    """Checks that a file's content is a burn-in at all; what is in it was written by this code."""
    if not isinstance(state, dict) or not {"model", "optimizers", "snapshots"} <= state.keys():
        raise ValueError("it holds something else")
    return cast(BurntIn, state)


def _key(context: SeedContext) -> str:
    recipe, samples = context.recipe, context.roles["burn_in"]
    compute = recipe.compute
    facts = [
        recipe.model.model_dump(),
        recipe.burn_in.model_dump(),
        [compute.precision, compute.channels_last, compute.threads, compute.deterministic, str(context.device)],
        context.seed,
        torch.__version__,
        code_digest(),
    ]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for tensor in (samples.x, samples.y):
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
