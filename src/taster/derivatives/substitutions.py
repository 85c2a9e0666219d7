"""What it would do to an inner product of gradients if one token were another, to first order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from taster.core.batch import Batch
from taster.core.view import View
from taster.errors import ModelError


def substitution_slopes(view: View, samples: Batch, towards: Mapping[str, Tensor], candidates: Tensor) -> Tensor:
    """How fast ⟨∇_θ ℓ(xᵢ; θ), V⟩ changes as the vector of a token goes over into that of another one.

        e(i, l, δ) = E[x_il] + Σ_c δ_c (E[c] − E[x_il])        the vector of token l of sample i; E: the embedding
        slope(i, l, c) = ∂/∂δ_c ⟨∇_θ ℓᵢ, V⟩ at δ = 0

    E is one of the parameters θ: that the gradient reaches another row of it is part of the slope.

    Args:
        view: of a model with one `torch.nn.Embedding` that the ids go through, and whose output depends on them by that
            alone or by a mask of them, which stays as it is.
        samples: x int64 [n, length] and y [n].
        towards: V, by name of parameter.
        candidates: int64 [c], ids.

    Returns:
        [n, length, c].

    Raises:
        ModelError: if the ids go through no embedding, or through several.

    Source: the first-order estimate of Ebrahimi et al. 2018 (HotFlip), of an inner product of gradients in place of a
        loss.
    """
    name = embedding_of_ids(view, samples)
    params = view.trainable
    like = next(iter(params.values()))
    change = like.new_zeros(*samples.x.shape, len(candidates)).requires_grad_()
    along = like.new_zeros(()).requires_grad_()
    moved = {key: value.detach() + along * towards[key] for key, value in params.items()}
    with torch.enable_grad(), _going_over(view, name, change, candidates):
        loss = view.sample_losses(samples, params=moved).sum()
        (slope,) = torch.autograd.grad(loss, along, create_graph=True)
        (found,) = torch.autograd.grad(slope, change)
    return found


def embedding_of_ids(view: View, samples: Batch) -> str:
    """The name of the embedding that token ids go through.

    Raises:
        ModelError: if there is none, or several.
    """
    seen: list[str] = []

    def watch(name: str, module: nn.Module, given: Tensor, _: Tensor) -> None:
        if isinstance(module, nn.Embedding) and given.shape == samples.x.shape and bool((given == samples.x).all()):
            seen.append(name)

    with torch.no_grad(), view.functional_model.layer_hooks(watch):
        view.forward(samples.x)
    if len(seen) != 1:
        raise ModelError(
            f"got a model in which token ids go through {len(seen)} embeddings ({', '.join(seen) or 'none'}), wanted "
            "one torch.nn.Embedding"
        )
    return seen[0]


@contextmanager
def _going_over(view: View, name: str, change: Tensor, candidates: Tensor) -> Iterator[None]:
    """Within the context the embedding puts out e(i, l, δ)."""

    def hook(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(module, nn.Embedding)
        rows = embedding(candidates, module.weight)
        return output + change @ rows - change.sum(-1, keepdim=True) * output

    handle = view.functional_model.layers[name].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
