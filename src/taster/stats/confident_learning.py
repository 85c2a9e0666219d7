"""Labels that look wrong, by what a model predicts that was not trained on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Suspect:
    """A sample whose label looks wrong.

    Attributes:
        index: of the sample.
        given, likely: its label, and the class that the model takes it for.
        given_probability, likely_probability: what the model gives each.
    """

    index: int
    given: int
    likely: int
    given_probability: float
    likely_probability: float

    def __str__(self) -> str:
        return (
            f"{self.index}: labelled {self.given} ({self.given_probability:.2f}), looks like {self.likely} "
            f"({self.likely_probability:.2f})"
        )


def suspected_labels(probabilities: Tensor, labels: Tensor) -> list[Suspect]:
    """The samples whose label looks wrong, the surest first.

    The threshold t_j of a class is the mean probability of j over the samples that are labelled j, so that a model that
    is less sure of a class is held to less there. A sample labelled i is suspected where

        p_i < t_i    and    p_j ≥ t_j for a j ≠ i

    and of several such j the likely one has the highest probability. The model must not have been trained on these
    samples with these labels.

    Args:
        probabilities: of each class, [n, k].
        labels: class indices, [n].

    Source: Northcutt, Jiang, Chuang 2021, "Confident Learning", the off-diagonal of the confident joint (equation 1),
        less the samples that are above the threshold of their own label too; the order is by p_j − p_i.
    """
    p = probabilities.detach().double().cpu()
    given = labels.detach().cpu().reshape(-1)
    member = torch.nn.functional.one_hot(given, p.shape[1]).bool()
    counts = member.sum(0)
    thresholds = torch.where(counts > 0, (p * member).sum(0) / counts.clamp(min=1), torch.inf)
    own = p.gather(1, given[:, None]).squeeze(1)
    above = torch.where((p >= thresholds) & ~member, p, -torch.inf)
    best, likely = above.max(1)
    found = (own < thresholds[given]) & best.isfinite()
    order = sorted(found.nonzero().flatten().tolist(), key=lambda i: float(own[i] - best[i]))
    return [Suspect(i, int(given[i]), int(likely[i]), float(own[i]), float(best[i])) for i in order]
