"""What is raised or lowered by moving samples: one number for each, from a model's output.

cross_entropy  CE(f(x), y)                       Madry et al. 2018
kl             KL(f(x₀) ‖ f(x)), x₀ the clean x   Zhang et al. 2019 (TRADES)
margin         max over j ≠ y of fⱼ(x) − f_y(x)   Carlini and Wagner 2017, as in Madry et al. 2018
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

ObjectiveName = Literal["cross_entropy", "kl", "margin"]

Objective = Callable[[Tensor, Tensor], Tensor]
"""Of logits [n, classes] and labels [n]: one number a sample, [n]; higher is worse for the model."""


def objective(name: ObjectiveName, reference: Tensor | None = None) -> Objective:
    """The objective of this name.

    Args:
        name: see this module.
        reference: logits of the clean samples, [n, classes], for "kl".

    Raises:
        ValueError: for "kl" without a reference.
    """
    if name == "cross_entropy":
        return lambda logits, y: cross_entropy(logits, y, reduction="none")
    if name == "margin":
        return _margin
    if reference is None:
        raise ValueError("the objective 'kl' wants a reference: the logits of the clean samples")
    fixed = reference.detach()
    return lambda logits, _: divergence(fixed, logits)


def divergence(reference: Tensor, logits: Tensor, kind: Literal["kl", "js"] = "kl") -> Tensor:
    """How far the prediction of `logits` is from that of `reference`, both [n, classes]: [n], in nats.

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


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    own = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], float("-inf")).amax(1)
    return others - own
