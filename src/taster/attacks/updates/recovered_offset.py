"""The recovered offset: updates of a few clients that bring the aggregate to a target."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.attacks.update_attack import RoundKnowledge, UpdateSettings


def recovered_offset(knowledge: RoundKnowledge, target: Tensor, settings: UpdateSettings | None = None) -> Tensor:
    """The update with which each of the attacker's clients brings the mean of all updates to the target, [d].

        A(Gₘ) = (Σ wₙ · target − Σ over others of wₙ Gₙ) / Σ own wₘ

    If the server clips each update to η before it takes the mean, the others are counted as clipped, and what arrives
    from the attacker's M clients is the missing part clipped to M η: as near to the target as M clients can come. (In
    Pang et al. each client sends the whole missing part, not its share, which arrives as the same only if the share
    exceeds M η.)

    Args:
        knowledge: of the round.
        target: of the mean, [d].
        settings: `server_clip_norm` and its norm type. Default: the server does not clip.

    Source: Pang et al. 2021, Eq. 14; the threat models of Appendix C.1 (no clip), C.2 (clip after aggregation: the
        same) and C.3 (clip before).
    """
    settings = settings or UpdateSettings()
    weights, others = knowledge.weights, knowledge.values
    mine = knowledge.malicious
    # One product over all rows, none of them copied; the attacker's rows get weight zero.
    shares = torch.where(mine, torch.zeros_like(weights), weights)
    if settings.server_clip_norm is not None:
        order = 2.0 if settings.server_clip_norm_type == "l2" else torch.inf
        sizes = torch.linalg.vector_norm(others, order, dim=1).clamp_min(torch.finfo(others.dtype).tiny)
        shares = shares * (settings.server_clip_norm / sizes).clamp_max(1.0)
    row: Tensor = (weights.sum() * target - shares @ others) / weights[mine].sum()
    return row


def add_zero_sum_noise(row: Tensor, weights: Tensor, noise_scale: float, generator: torch.Generator) -> Tensor:
    """The row for each of k clients plus random vectors whose weighted sum is zero, [k, d].

    Args:
        row: [d].
        weights: [k], of the clients.
        noise_scale: norm of a random vector relative to that of the row.
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


def distribute(
    knowledge: RoundKnowledge, target: Tensor, settings: UpdateSettings, generator: torch.Generator
) -> Tensor:
    """What the attacker's clients send to bring the mean of all updates to the target, [k, d]."""
    row = recovered_offset(knowledge, target, settings)
    return add_zero_sum_noise(row, knowledge.weights[knowledge.malicious], settings.noise_scale, generator)
