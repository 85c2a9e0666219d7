"""What scores say of clean samples and of those that are fed in their place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from taster.attacks.campaign import changed
from taster.guard import Stateful
from taster.score import Score
from taster.types import Batch, Phase, StepRecord
from taster.view import View


class Measures:
    """Scores taken before each step that is looked at, of the poisoned samples and of the clean ones they were.

    Where no sample was changed the clean ones are measured alone.

    Args:
        scores: by label.
    """

    def __init__(self, scores: Mapping[str, Score]) -> None:
        self._scores = scores
        self._clean: defaultdict[tuple[str, str], list[Tensor]] = defaultdict(list)
        self._fed: defaultdict[tuple[str, str], list[Tensor]] = defaultdict(list)

    def take(self, phase: Phase, clean: Batch, fed: Batch, view: View) -> dict[str, dict[str, float]]:
        """Measures a step's samples; the means by score."""
        if phase is Phase.DORMANT:
            return {}
        mask = changed(fed.x, clean.x)
        found = {}
        for label, score in self._scores.items():
            key = (label, phase.value)
            some = bool(mask.any())
            values = score(clean.select(mask) if some else clean, view).float().cpu()
            self._clean[key].append(values)
            found[label] = {"clean": float(values.mean())}
            if some:
                poisoned = score(fed.select(mask), view).float().cpu()
                self._fed[key].append(poisoned)
                found[label]["fed"] = float(poisoned.mean())
        return {label: _finite(means) for label, means in found.items()}

    def observe(self, record: StepRecord, view: View) -> None:
        """Passes it on to scores that keep state."""
        for score in self._scores.values():
            if isinstance(score, Stateful):
                score.observe(record, view)

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """By score and phase: the means on clean and fed samples, and the area under the ROC curve, in %."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for (label, phase), parts in self._clean.items():
            clean, fed = torch.cat(parts), self._fed.get((label, phase))
            entry = {"clean": float(clean.mean())}
            if fed:
                entry |= {"fed": float(torch.cat(fed).mean()), "auc": _area(clean, torch.cat(fed))}
            found.setdefault(label, {})[phase] = _finite(entry)
        return found

    def values(self) -> dict[str, Any] | None:
        """All that was measured, by score and phase: tensors [n] of clean and fed samples. None without scores."""
        if not self._scores:
            return None
        found: dict[str, Any] = {}
        for (label, phase), parts in self._clean.items():
            fed = self._fed.get((label, phase))
            entry = {"clean": torch.cat(parts), **({"fed": torch.cat(fed)} if fed else {})}
            found.setdefault(label, {})[phase] = entry
        return found


def _area(clean: Tensor, fed: Tensor) -> float:
    truth = [0] * len(clean) + [1] * len(fed)
    values = torch.cat([clean, fed])
    # An infinite score is the most suspicious there is; one that is no number as well.
    values = torch.nan_to_num(values, nan=torch.finfo(values.dtype).max)
    return 100 * float(roc_auc_score(truth, values.numpy()))


def _finite(means: dict[str, float]) -> dict[str, float]:
    """Without what JSON cannot hold."""
    return {key: value for key, value in means.items() if abs(value) < float("inf")}
