"""Makes the base models of an ensemble, each from a seed of its own, and says which can be trained together."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from taster.core.model_checks import check_model
from taster.defences.training.sgd import initial_seed
from taster.defences.training.training_set import as_input
from taster.errors import ModelError
from taster.utils.seeds import seeded

MakeModel = Callable[[], nn.Module]
"""Makes a new model. Its weights may come from torch's random numbers, which are seeded before each call."""


def make_base_model(make_model: MakeModel, seed: int, model: int, device: torch.device) -> nn.Module:
    """Base model number `model` before its training.

    Raises:
        ModelError: if the function returns something else than a module, or one that no step could be made with.
    """
    with seeded(initial_seed(seed, model), device):
        made = make_model()
    if not isinstance(made, nn.Module):
        raise ModelError(f"make_model: got a {type(made).__name__}, wanted a function that returns a torch.nn.Module")
    check_model(made)
    if not any(p.requires_grad for p in made.parameters()):
        raise ModelError("make_model: got a model without trainable parameters, wanted at least one")
    return made.to(device)


def check_stackable(model: nn.Module) -> None:
    """Refuses models that cannot be trained side by side on padded batches.

    Raises:
        ModelError: for batch norm, and for normalization that records running statistics.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) or (isinstance(module, _NormBase) and module.track_running_stats):
            raise ModelError(
                f"got {name or 'a model'}, a {type(module).__name__}: its statistics would be those of a padded batch; "
                "wanted a model without batch norm (group norm is fine), or looped_training, which trains any model"
            )


def check_first_pass(model: nn.Module, x: Tensor, classes: int, *, buffers_may_change: bool) -> None:
    """Runs a copy of a model on a few samples, before any training.

    Args:
        model: a base model.
        x: samples [n, ...].
        classes: how many it should tell apart.
        buffers_may_change: whether a forward pass in training may write into buffers.

    Raises:
        ModelError: if the output is not [n, classes] of floating point, the pass fails, or it writes into buffers.
    """
    copied = copy.deepcopy(model).train()
    before = {name: buffer.clone() for name, buffer in copied.named_buffers()}
    some = as_input(x[:2])
    with seeded(0, x.device), torch.no_grad():
        try:
            output = copied(some)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelError(f"got a model that fails on samples {list(some.shape)}: {error}") from error
    if not isinstance(output, Tensor) or output.shape != (len(some), classes) or not output.is_floating_point():
        got = f"{list(output.shape)} of {output.dtype}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ModelError(f"got the output {got} for {len(some)} samples, wanted logits [{len(some)}, {classes}]")
    after = dict(copied.named_buffers())
    written = [name for name, buffer in before.items() if not _same(buffer, after.get(name))]
    if (written or len(after) > len(before)) and not buffers_may_change:
        raise ModelError(
            f"got a model whose forward pass writes into buffers ({', '.join(written[:3]) or 'new ones'}), wanted one "
            "that leaves them, or looped_training, which trains any model"
        )


def _same(before: Tensor, after: Tensor | None) -> bool:
    if after is None or before.shape != after.shape or before.dtype != after.dtype:
        return False
    same = (before == after) | ((before != before) & (after != after))  # NaN is the same as NaN
    return bool(same.all())
