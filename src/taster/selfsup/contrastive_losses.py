"""Losses of pairs of views: two views of one image are to lie close, and views of different images apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross-entropy of a batch, [].

        −1/2n Σᵢ log exp(sim(zᵢ, zⱼ) / τ) / Σ_{k ≠ i} exp(sim(zᵢ, z_k) / τ)

    over all 2n views, with j the other view of i's image and the cosine as sim.

    Args:
        first, second: projections of two views of n images, [n, d].
        temperature: τ.

    Source: Chen et al. 2020 (SimCLR), Eq. 1 and Algorithm 1.
    """
    both = normalize(torch.cat([first, second]), dim=1)
    n = len(first)
    near = (both @ both.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool, device=both.device), -torch.inf)
    return cross_entropy(near, torch.arange(2 * n, device=both.device).roll(n))


def info_nce(queries: Tensor, keys: Tensor, others: Tensor, temperature: float) -> Tensor:
    """The mean cross-entropy of finding each query's own key among it and the others, [].

        −1/n Σᵢ log exp(qᵢ·kᵢ / τ) / (exp(qᵢ·kᵢ / τ) + Σ_k exp(qᵢ·o_k / τ))

    Args:
        queries, keys: projections of two views of n images, [n, d]; they are brought to length 1.
        others: projections of other images, [m, d], of length 1.
        temperature: τ.

    Source: He et al. 2020 (MoCo), Eq. 1 and Algorithm 1.
    """
    queries, keys = normalize(queries, dim=1), normalize(keys, dim=1)
    logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ others.T], 1) / temperature
    return cross_entropy(logits, torch.zeros(len(queries), dtype=torch.int64, device=logits.device))


def negative_cosine(predictions: Tensor, projections: Tensor) -> Tensor:
    """Minus the mean cosine of predictions and projections, [].

    Args:
        predictions, projections: [n, d].

    Source: Chen and He 2021 (SimSiam), Eq. 1.
    """
    return -cosine_similarity(predictions, projections, dim=1).mean()
