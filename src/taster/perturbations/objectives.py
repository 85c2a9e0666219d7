"""Objectives of perturbations: a value per sample, from the model's output.

cross_entropy  CE(f(x), y)                       Madry et al. 2018
kl             KL(f(x₀) ‖ f(x)), x₀ the clean x   Zhang et al. 2019 (TRADES)
margin         max over j ≠ y of fⱼ(x) − f_y(x)   Carlini and Wagner 2017, as in Madry et al. 2018

and of the variants of adversarial training

trades         CE(f(x), y) + β KL(f(x₀) ‖ f(x))                           after Zhang et al. 2019, Eq. 5
mart           BCE(f(x), y) + λ KL(f(x₀) ‖ f(x)) · (1 − p_y(x₀))          Wang et al. 2020, Eq. 10
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

ObjectiveName = Literal["cross_entropy", "kl", "margin"]

_LEAST = 1e-6
"""Minimum distance of a probability from 1 before its logarithm is taken."""

SampleLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Loss per sample [n] of logits [n, classes], labels [n] and the logits of the unperturbed samples [n, classes]."""


def cross_entropy_per_sample(logits: Tensor, y: Tensor, reference: Tensor) -> Tensor:
    """Cross-entropy; the reference is not used."""
    return cross_entropy(logits, y, reduction="none")


def trades_loss(weight: float) -> SampleLoss:
    """The loss of TRADES with β = `weight`."""
    return lambda logits, y, reference: (
        cross_entropy_per_sample(logits, y, reference) + weight * divergence(reference, logits)
    )


def mart_loss(weight: float) -> SampleLoss:
    """The loss of MART with λ = `weight`. BCE is −log p_y − log(1 − the largest other probability)."""

    def loss(logits: Tensor, y: Tensor, reference: Tensor) -> Tensor:
        logs = log_softmax(logits, 1)
        rival = logs.scatter(1, y[:, None], float("-inf")).amax(1)
        boosted = -logs.gather(1, y[:, None]).squeeze(1) - torch.log1p(-rival.exp().clamp_max(1 - _LEAST))
        doubt = 1 - reference.softmax(1).gather(1, y[:, None]).squeeze(1)
        return boosted + weight * divergence(reference, logits) * doubt

    return loss


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The largest other logit minus that of the label, [n]; positive for misclassified samples."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], float("-inf")).amax(1) - own


def reversed_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """−log(1 − p_y), [n], of logits [n, classes] and labels [n]; by the logits of the other classes, as p_y rounds to
    1."""
    others = logits.scatter(1, y[:, None], float("-inf"))
    return logits.logsumexp(1) - others.logsumexp(1)


def divergence(reference: Tensor, logits: Tensor, kind: Literal["kl", "js"] = "kl") -> Tensor:
    """Divergence of the predictions of `logits` from those of `reference`, both [n, classes]: [n], in nats.

    Args:
        reference: p, as logits.
        logits: q, as logits.
        kind: "kl" is KL(p ‖ q); "js" is the Jensen-Shannon divergence, at most log 2 and symmetric.
    """
    log_p, log_q = log_softmax(reference, 1), log_softmax(logits, 1)
    if kind == "kl":
        return _kl(log_p, log_q)
    middle = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0, dtype=log_p.dtype, device=log_p.device))
    return (_kl(log_p, middle) + _kl(log_q, middle)) / 2


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
