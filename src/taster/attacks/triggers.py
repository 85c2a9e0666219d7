"""Backdoor triggers: functions of images that put a pattern on each, which a poisoned model answers with one class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from taster.errors import AttackError
from taster.utils.import_path import import_callable, is_import_path

TriggerFn = Callable[[Tensor], Tensor]
"""From samples [n, ...] in [0, 1] to the same samples with the trigger on, without a random part."""


def patch_trigger(x: Tensor, *, size: int = 3) -> Tensor:
    """A checkerboard of `size` x `size` pixels, white in its corners, one pixel from the lower right corner.

    Args:
        x: images, [n, c, h, w], in [0, 1].
        size: side of the patch, in pixels.

    Raises:
        AttackError: for samples that are no images, or too small for the patch.

    Source: Gu et al. 2017 (BadNets), Section 4.
    """
    if x.dim() != 4 or min(x.shape[2:]) < size + 1:
        raise AttackError(f"got samples {list(x.shape)}, wanted images [n, c, h, w] of {size + 1}x{size + 1} or more")
    place = torch.arange(size, device=x.device)
    board = 1 - (place[:, None] + place[None, :]) % 2
    marked = x.clone()
    marked[:, :, -size - 1 : -1, -size - 1 : -1] = board.to(x)
    return marked


def blended_trigger(x: Tensor, *, opacity: float = 0.2, pattern_seed: int = 0) -> Tensor:
    """A faint pattern k of uniform noise over the whole sample: x ← (1 − α) x + α k.

    Args:
        x: samples, [n, ...], in [0, 1].
        opacity: α.
        pattern_seed: of the noise, which is the same on every sample.

    Source: Chen et al. 2017, Section 3.3.1 (blended injection), with its random pattern.
    """
    return (1 - opacity) * x + opacity * noise_pattern(x, pattern_seed)


def noise_pattern(x: Tensor, seed: int) -> Tensor:
    """Uniform noise in [0, 1] of the shape of one sample, the same on every device."""
    own = torch.Generator().manual_seed(seed)
    return torch.rand(x.shape[1:], generator=own, dtype=torch.float32).to(x)


def named_trigger(name: str) -> TriggerFn:
    """A trigger by its name: "patch" or "blended" with their defaults, or package.module:function.

    Raises:
        AttackError: for any other name, or if the function cannot be imported.
    """
    own: dict[str, TriggerFn] = {"patch": patch_trigger, "blended": blended_trigger}
    if name in own:
        return own[name]
    if not is_import_path(name):
        raise AttackError(f"trigger: got {name!r}, wanted {', '.join(own)} or a function as package.module:function")
    return partial(_checked, import_callable(name, AttackError), name)


def _checked(function: TriggerFn, name: str, x: Tensor) -> Tensor:
    """What a user's trigger makes of samples, if it is as samples are."""
    marked = function(x)
    if not isinstance(marked, Tensor) or marked.shape != x.shape or marked.dtype != x.dtype:
        got = f"{list(marked.shape)} of {marked.dtype}" if isinstance(marked, Tensor) else type(marked).__name__
        raise AttackError(f"trigger: {name} returned {got}, wanted {list(x.shape)} of {x.dtype}")
    if not bool(marked.isfinite().all()):
        raise AttackError(f"trigger: {name} returned NaN or infinity, wanted samples in [0, 1]")
    return marked
