"""Burn-ins kept on disk, shared by all recipes that need the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

import taster
from taster.data import Images
from taster.data.cache import cache_directory, cached_file
from taster.experiments.recipes.schema import Recipe
from taster.utils.import_path import is_import_path


def cached_burn_in(
    recipe: Recipe, images: Images, seed: int, device: torch.device, train: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What `train` returns, read back where a burn-in determined by the same things has been made before.

    Those are the images, the model, `[burn_in]`, how it is computed, the seed, torch and taster's own code. A model of
    the user's own (its code can change unseen) and weights from a checkpoint are not kept.

    Args:
        recipe: the recipe.
        images: of the role "burn_in".
        seed: of the run.
        device: computed on.
        train: makes it.
    """
    if is_import_path(recipe.model.name) or recipe.burn_in.checkpoint is not None:
        return train()
    path = cache_directory() / "burn-in" / f"{_key(recipe, images, seed, device)}.safetensors"
    return cached_file(path, "burn-in", train, pack=lambda state: state, unpack=lambda state: state)


def _key(recipe: Recipe, images: Images, seed: int, device: torch.device) -> str:
    compute = recipe.compute
    facts = [
        recipe.model.model_dump(),
        recipe.burn_in.model_dump(),
        [compute.precision, compute.channels_last, compute.threads, str(device)],
        seed,
        torch.__version__,
        _code(),
    ]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for tensor in (images.x, images.y):
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


@cache
def _code() -> str:
    """A digest of taster's own source."""
    digest = hashlib.sha256()
    root = Path(taster.__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
