"""The recovered offset: a few clients who make the aggregate what they like."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.attacks.update_attack import RoundKnowledge
from taster.perturbations.pgd import Norm


def recovered_offset(
    knowledge: RoundKnowledge, target: Tensor, server_clip_norm: float | None = None, norm_type: Norm = "l2"
) -> Tensor:
    """What each of the attacker's clients sends so that the mean of all becomes the target, [d].

        A(Gₘ) = (Σ wₙ · target − Σ over others of wₙ Gₙ) / Σ own wₘ

    Where the server scales each update down to η before it takes the mean, the others count as it leaves them, and
    what arrives of the attacker's M is Clip to M η of what is missing: as near to the target as M clients can come.
    (Pang et al. let each send all that is missing, not its share, which arrives as the same only where that exceeds
    M η.)

    Args:
        knowledge: the round.
        target: of the mean.
        server_clip_norm: η of the server; None where it clips nothing, or only the aggregate.
        norm_type: of η.

    Source: Pang et al. 2021, Eq. 14; the threat models of Appendix C.1 (no clip), C.2 (clip after aggregation: the
        same) and C.3 (clip before).
    """
    weights, others = knowledge.weights, knowledge.values
    mine = knowledge.malicious
    # One product over all rows, none of them copied; the attacker's count for nothing.
    shares = torch.where(mine, torch.zeros_like(weights), weights)
    if server_clip_norm is not None:
        order = 2.0 if norm_type == "l2" else torch.inf
        sizes = torch.linalg.vector_norm(others, order, dim=1).clamp_min(torch.finfo(others.dtype).tiny)
        shares = shares * (server_clip_norm / sizes).clamp_max(1.0)
    row: Tensor = (weights.sum() * target - shares @ others) / weights[mine].sum()
    return row


def add_zero_sum_noise(row: Tensor, weights: Tensor, noise_scale: float, generator: torch.Generator) -> Tensor:
    """The row for each of k clients, each with a random vector added, the vectors' weighted sum zero, [k, d].

    Args:
        row: [d].
        weights: [k], of the clients.
        noise_scale: length of a random vector over that of the row.
        generator: draws them.

    Source: Pang et al. 2021, Algorithm 2: Mₙ, which keep clients from sending the same.
    """
    count = len(weights)
    if count == 1 or noise_scale == 0:
        return row.expand(count, -1)
    noise = torch.randn(count, row.numel(), generator=generator, device=generator.device, dtype=row.dtype).to(row)
    noise -= (weights / weights.sum()) @ noise
    lengths = torch.linalg.vector_norm(noise, dim=1).mean()
    rows: Tensor = row + noise * (noise_scale * torch.linalg.vector_norm(row) / lengths)
    return rows
