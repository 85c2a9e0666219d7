"""Scores of clean samples and of those that are poisoned in their place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from taster.attacks.online_attack import poison_mask
from taster.core.batch import Batch
from taster.core.guard import Stateful
from taster.core.step_record import Phase, StepRecord
from taster.core.view import View
from taster.errors import RecipeError
from taster.experiments.recipes.schema import Entry
from taster.experiments.user_code import user_code
from taster.scores.base import Score


class ScoreTracker:
    """Measures each step's samples before the step: those that were poisoned, and the same when clean.

    In steps where an attack changes nothing, only the clean samples are measured.

    Args:
        scores: by their entries in the recipe.
    """

    def __init__(self, scores: Mapping[Entry, Score]) -> None:
        self._scores = list(scores.items())
        self._alone: defaultdict[tuple[str, str], list[Tensor]] = defaultdict(list)
        self._pairs: defaultdict[tuple[str, str], list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def take(self, phase: Phase, clean: Batch, poisoned: Batch, view: View) -> dict[str, dict[str, float]]:
        """Measures a step's samples; the means by score.

        Raises:
            RecipeError: when a score does not return one number a sample, or is the user's own and raises something.
        """
        if phase is Phase.DORMANT:
            return {}
        mask = poison_mask(poisoned, clean)
        found = {}
        for entry, score in self._scores:
            key = (entry.label, phase.value)
            if bool(mask.any()):
                pair = tuple(_measured(entry, score, batch.select(mask), view) for batch in (clean, poisoned))
                self._pairs[key].append((pair[0], pair[1]))
                found[entry.label] = _means(*pair)
            else:
                self._alone[key].append(_measured(entry, score, clean, view))
                found[entry.label] = _means(self._alone[key][-1])
        return found

    def observe(self, record: StepRecord, view: View) -> None:
        """Passes a step's record on to scores that keep state."""
        for entry, score in self._scores:
            if isinstance(score, Stateful):
                with user_code(entry):
                    score.observe(record, view)

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """By score and phase: the means on clean and poisoned samples, and the area under the ROC curve, in %."""
        return {
            label: {
                phase: {**_means(**parts), **({"auc": _area(**parts)} if "poisoned" in parts else {})}
                for phase, parts in phases.items()
            }
            for label, phases in (self.values() or {}).items()
        }

    def values(self) -> dict[str, dict[str, dict[str, Tensor]]] | None:
        """All that was measured, by score and phase: tensors [n] of clean and poisoned samples. None without scores."""
        if not self._scores:
            return None
        found: dict[str, dict[str, dict[str, Tensor]]] = {}
        for (label, phase), parts in self._alone.items():
            found.setdefault(label, {})[phase] = {"clean": torch.cat(parts)}
        for (label, phase), pairs in self._pairs.items():  # in the place of the steps that an attack left alone
            clean, poisoned = zip(*pairs, strict=True)
            found.setdefault(label, {})[phase] = {"clean": torch.cat(clean), "poisoned": torch.cat(poisoned)}
        return found


def _measured(entry: Entry, score: Score, batch: Batch, view: View) -> Tensor:
    with user_code(entry), torch.no_grad():
        values = score(batch, view)
    if not isinstance(values, Tensor) or values.shape != (len(batch),):
        got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise RecipeError(
            f"score {entry.label}: {entry.name} returned {got}, wanted one number a sample, [{len(batch)}]"
        )
    return values.detach().float().cpu()


def _area(clean: Tensor, poisoned: Tensor) -> float:
    from sklearn.metrics import roc_auc_score  # slow to import, and only needed here

    truth = [0] * len(clean) + [1] * len(poisoned)
    # An infinite score is the most suspicious there is; one that is no number as well.
    values = torch.nan_to_num(torch.cat([clean, poisoned]), nan=torch.finfo(clean.dtype).max)
    return 100 * float(roc_auc_score(truth, values.numpy()))


def _means(clean: Tensor, poisoned: Tensor | None = None) -> dict[str, float]:
    """Without what JSON cannot hold."""
    means = {"clean": float(clean.mean()), **({} if poisoned is None else {"poisoned": float(poisoned.mean())})}
    return {name: mean for name, mean in means.items() if abs(mean) < float("inf")}
