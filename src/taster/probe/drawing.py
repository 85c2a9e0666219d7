"""A probe drawn from the data there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from taster.core.batch import Batch
from taster.core.nested import LABEL_KEYS
from taster.core.trusted_data import as_trusted_data
from taster.errors import BatchError, GuardError, LabelError
from taster.tasks import labels_of

_NAME = "taster.probe.draw"


def draw(
    data: Any, samples: int, *, stratified: bool | None = None, generator: torch.Generator | None = None
) -> tuple[Batch, Any]:
    """Draws a probe, and returns it with what is left: no sample is in both.

    Take it before anybody else has touched the data, and never train on it. Samples that occur twice in the data can
    be in both all the same; `taster.probe.check(probe, train=rest)` finds them.

    Args:
        data: a `Batch`, or a data set with a length and items by index, (x, y) or a dictionary with labels.
        samples: how many; at least one is left.
        stratified: draws as large a share of each class as of all, and one sample at least of each; None does so
            where each sample has a class.
        generator: of the draw; None takes torch's own, so that `torch.manual_seed` reproduces it.

    Returns:
        the probe as a `Batch`; the rest as a `Batch` of one, or as a `torch.utils.data.Subset` of a data set. The rest
        is in the order that it had.

    Raises:
        GuardError: for a number of samples that there are not.
        LabelError: for `stratified=True` where samples have no class each.
        BatchError: for anything else than data, and for a probe with NaN or infinity.
    """
    if not isinstance(data, Batch) and (isinstance(data, Tensor) or not _is_data_set(data)):
        raise BatchError(
            f"{_NAME}: got a {type(data).__name__}, wanted a taster.Batch(x, y) or a data set with a length and items "
            "by index"
        )
    total = len(data)
    if isinstance(samples, bool) or not isinstance(samples, int) or not 2 <= samples < total:
        raise GuardError(
            f"{_NAME}: got {samples!r} samples of {total}, wanted a whole number of 2 or more that leaves some"
        )
    codes = None if stratified is False else _classes(data)
    if codes is None and stratified:
        raise LabelError(f"{_NAME}: got data without a class for each sample, wanted stratified=False")
    chosen = _drawn(total, samples, generator) if codes is None else _drawn_by_class(codes, samples, generator)
    left = torch.ones(total, dtype=torch.bool)
    left[chosen] = False
    if isinstance(data, Batch):
        return as_trusted_data(data.select(chosen), _NAME), data.select(left)
    rest: Subset[Any] = Subset(data, left.nonzero().flatten().tolist())
    return as_trusted_data(Subset(data, chosen.tolist()), _NAME), rest


def _is_data_set(data: Any) -> bool:
    named = isinstance(data, (Mapping, str, bytes, list, tuple))
    return not named and hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _drawn(total: int, samples: int, generator: torch.Generator | None) -> Tensor:
    return torch.randperm(total, generator=generator)[:samples].sort().values


def _drawn_by_class(codes: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    counts = torch.bincount(codes)
    wanted = shares(counts, samples)
    order = torch.randperm(len(codes), generator=generator)
    parts = [order[codes[order] == code][:count] for code, count in enumerate(wanted)]
    return torch.cat(parts).sort().values


def shares(counts: Tensor, samples: int) -> list[int]:
    """How many of each class to take: in proportion, by the largest remainders, and one at least of each class where
    there are as many samples as classes.

    Args:
        counts: samples there are of each class, [k], at least one of each.
        samples: to be taken in all.
    """
    least = int(samples >= len(counts))
    exact = counts.double() * samples / counts.sum()
    taken = exact.floor().long().clamp(min=least)
    while int(taken.sum()) != samples:
        more = int(taken.sum()) < samples
        # The class that is furthest from its share and can give or take one.
        off = torch.where(taken < counts if more else taken > least, (exact - taken) * (1 if more else -1), -torch.inf)
        taken[int(off.argmax())] += 1 if more else -1
    found: list[int] = taken.tolist()
    return found


def _classes(data: Any) -> Tensor | None:
    """The class of each sample, [n] from 0 in the order of the labels; None where samples have none each."""
    labels = _batch_labels(data) if isinstance(data, Batch) else _data_set_labels(data)
    return None if labels is None else classes_of(labels)


def classes_of(labels: Tensor) -> Tensor | None:
    """The class of each sample, [n] from 0: of labels that are one whole number, or yes or no, each."""
    if labels.numel() != len(labels) or labels.is_complex():
        return None
    flat = labels.detach().cpu().reshape(-1)
    if flat.is_floating_point() and not bool(((flat == 0) | (flat == 1)).all()):
        return None
    codes: Tensor = torch.unique(flat, return_inverse=True)[1]
    return codes


def _batch_labels(data: Batch) -> Tensor | None:
    try:
        return labels_of(data, _NAME)
    except LabelError:
        return None


def _data_set_labels(data: Any) -> Tensor | None:
    known = getattr(data, "targets", None)
    found = known if known is not None and len(known) == len(data) else [_label(data[i]) for i in range(len(data))]
    if any(label is None for label in found):
        return None
    try:
        return torch.stack([torch.as_tensor(label) for label in found])
    except (TypeError, ValueError, RuntimeError):  # text, boxes, sequences of several lengths
        return None


def _label(item: Any) -> Any:
    if isinstance(item, Mapping):
        return next((item[key] for key in LABEL_KEYS if key in item), None)
    return item[-1] if isinstance(item, (tuple, list)) and len(item) > 1 else None
