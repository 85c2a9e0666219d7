"""Samples that a model from before the attack finds surprising are dropped, where their label has too many of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taster.core.batch import Batch, check_tensors
from taster.core.guard import Guard, ScreenedBatch
from taster.core.step_record import StepRecord
from taster.core.threat import countermeasure
from taster.core.trusted_data import check_trusted_data, check_trusted_losses, check_trusted_range
from taster.core.types import Tensors
from taster.core.view import View
from taster.errors import LabelError
from taster.stats.contamination import Floats, conformal_p_values, contamination_limit
from taster.utils.setting_types import Alpha, PositiveCount, Quantile, Window
from taster.utils.settings import validate_settings

Labels = NDArray[np.int64]

_NAME = "backdoor_screen"

_FEW = 20
"""Labels with fewer trusted samples are compared with those of all labels."""


@countermeasure("sanitization", "targeted integrity")
@validate_settings
def backdoor_screen(
    probe: Batch,
    *,
    quantile: Quantile = 0.995,
    alpha: Alpha = 1e-5,
    window: Window = 20,
    refresh_every: PositiveCount = 100,
) -> Guard:
    """Drops what surprises an earlier model, sample by sample and, where a label has too much of it, label by label.

    A backdoor is planted by samples whose label the trigger is to stand for and nothing else does, so that a model
    without the backdoor finds them surprising. A model that has begun to learn it no longer does; therefore losses are
    those of a reference model, which takes the learner's state every `refresh_every` steps, and not while a label is
    contaminated.

        s(x, y) = ℓ(x, y; reference), p the share of trusted samples of label y with as high a loss
        dropped if s > the q-quantile over all trusted samples, or p ≤ the limit of label y

    The limit is 0, unless the p-values of the window's samples of that label show that some are poisoned; then it drops
    where more are poisoned than honest, see `taster.stats.contamination`.

    Args:
        probe: trusted samples with class indices: 50 or more of each class. Fewer than 20 of one say nothing about it.
        quantile: q, so that a share 1 − q of honest samples is dropped; 1 leaves it to the limits.
        alpha: probability that one test of one label finds poison where there is none.
        window: steps whose samples are looked at.
        refresh_every: steps after which the reference model is the present one.

    Raises:
        BatchError, LabelError: see `taster.core.trusted_data.check_trusted_data`.

    Source: taster's own; the results page of backdoors shows what was measured, and what was left out.
    """
    return Guard(screens=[BackdoorScreen(probe, quantile, alpha, window, refresh_every)])


@dataclass(frozen=True)
class _Reference:
    """A model that losses are measured with."""

    params: Tensors
    buffers: Tensors

    def losses(self, batch: Batch, view: View) -> Tensor:
        """[n], without a graph."""
        with torch.no_grad():
            return view.functional_model.sample_losses(self.params, self.buffers, batch.x, batch.y)


@dataclass(frozen=True)
class _Seen:
    """What one step's samples showed.

    Attributes:
        step: whose samples they are.
        reference: the model that they were measured with.
        p_values, labels: [n].
        contaminated: whether a label was.
    """

    step: int
    reference: _Reference
    p_values: Floats
    labels: Labels
    contaminated: bool


class BackdoorScreen:
    """The screen of `backdoor_screen`, which see; with the reference model and the p-values of the window."""

    name = _NAME

    def __init__(self, probe: Batch, quantile: float, alpha: float, window: int, refresh_every: int) -> None:
        self._probe = _checked(probe)
        self._quantile = quantile
        self._alpha = alpha
        self._refresh_every = refresh_every
        self._reference: _Reference | None = None
        self._age = 0
        self._window: deque[tuple[Floats, Labels]] = deque(maxlen=window)
        self._seen: _Seen | None = None  # of the last call, until the step is observed
        # Losses of the probe, of all and by label, and the reference that they are of.
        self._trusted: tuple[_Reference, Floats, dict[int, Floats]] | None = None

    def __call__(self, admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        """The batch without suspicious samples."""
        batch = check_tensors(admitted.batch, _NAME)
        _check_labels(batch.y)
        reference = self._reference or _Reference(view.params, view.buffers)
        trusted, peers = self._trusted_losses(reference, view)
        losses, labels = _array(reference.losses(batch, view)), batch.y.cpu().numpy()
        dropped = conformal_p_values(losses, trusted) <= 1 - self._quantile
        past = [np.concatenate(parts) for parts in zip(*self._window, strict=True)]
        p_values, contaminated = np.empty(len(batch)), False
        for label in np.unique(labels):
            own, known = labels == label, peers.get(int(label), trusted)
            p_values[own] = conformal_p_values(losses[own], known)
            recent = [past[0][past[1] == label]] if past else []
            limit = contamination_limit(np.concatenate([*recent, p_values[own]]), len(known), self._alpha)
            contaminated |= limit > 0
            dropped |= own & (p_values <= limit)
        self._seen = _Seen(view.step, reference, p_values, labels, contaminated)
        if not dropped.any():
            return admitted
        mask = torch.from_numpy(dropped).to(batch.y.device)
        return admitted.drop(mask, "every sample surprises the reference model")

    def observe(self, record: StepRecord, view: View) -> None:
        """Adds the step's samples to the window; takes the present model as reference if it is time."""
        seen, self._seen = self._seen, None
        if seen is None or seen.step != record.step:  # a trusted batch, which no screen sees
            return
        self._window.append((seen.p_values, seen.labels))
        self._reference, self._age = seen.reference, self._age + 1
        if self._age >= self._refresh_every and not seen.contaminated:
            self._reference, self._age = _Reference(view.params, view.buffers), 0

    def set_trusted_data(self, probe: Batch) -> None:
        """Replaces the trusted samples."""
        self._probe, self._trusted = _checked(probe), None

    def check_model(self, view: View) -> None:
        """Checks that the model and the loss take the trusted samples."""
        check_trusted_range(self._probe, view, _NAME)
        check_trusted_losses(self._probe, view, _NAME)

    def state_dict(self) -> dict[str, Any]:
        """The reference model, its age, and the window."""
        model = self._reference
        return {
            "reference": None if model is None else {"params": model.params, "buffers": model.buffers},
            "age": self._age,
            "window": [[torch.from_numpy(part) for part in pair] for pair in self._window],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        saved = state["reference"]
        self._reference = None if saved is None else _Reference(saved["params"], saved["buffers"])
        self._age = state["age"]
        self._window.clear()
        self._window.extend((values.cpu().numpy(), labels.cpu().numpy()) for values, labels in state["window"])
        self._seen = self._trusted = None

    def _trusted_losses(self, reference: _Reference, view: View) -> tuple[Floats, dict[int, Floats]]:
        """Of the probe: all, and those of each label that has enough."""
        if self._trusted is None or self._trusted[0] is not reference:
            losses, labels = _array(reference.losses(self._probe, view)), self._probe.y.cpu().numpy()
            groups = {int(label): losses[labels == label] for label in np.unique(labels)}
            enough = {label: group for label, group in groups.items() if len(group) >= _FEW}
            self._trusted = (reference, losses, enough)
        return self._trusted[1:]


def _array(losses: Tensor) -> Floats:
    return losses.double().cpu().numpy()


def _checked(probe: Batch) -> Batch:
    check_tensors(check_trusted_data(probe, _NAME, classes=True, min_samples=_FEW), _NAME)
    _check_labels(probe.y)
    return probe


def _check_labels(y: Tensor) -> None:
    if y.dim() != 1 or y.is_floating_point() or y.is_complex():
        raise LabelError(f"{_NAME}: got labels {list(y.shape)} of {y.dtype}, wanted one class index a sample, [n]")
