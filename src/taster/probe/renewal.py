"""Trusted data replaced by newer, after a look at both."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.guard import Guard, check_is_guard
from taster.core.joining import joined_batches
from taster.core.losses import AnyLoss
from taster.core.objective import ForwardFn
from taster.core.trusted_data import as_trusted_data
from taster.core.view import View
from taster.defences.gates.probe_source import ProbeSource
from taster.errors import GuardError, LabelError
from taster.probe.checking import check
from taster.probe.digests import digests
from taster.probe.drawing import classes_of, shares
from taster.probe.model_views import view_of
from taster.probe.report import ProbeReport
from taster.tasks import Task, labels_of, named_task

_log = logging.getLogger(__name__)

_NAME = "taster.probe.renew"


@dataclass(frozen=True)
class Renewal:
    """What `taster.probe.renew` found and did.

    Attributes:
        quantity: what was compared, in words.
        old, new: its mean on the old samples and on the new ones, as fractions.
        p: the p-value of the hypothesis that the model does as well on the new samples.
        worse: whether it does significantly worse, by more than the tolerance.
        known: new samples that are among the old ones.
        kept: old samples that stay.
        report: what `taster.probe.check` found of the new samples.
        probe: what the guard has from now on.
    """

    quantity: str
    old: float
    new: float
    p: float
    worse: bool
    known: int
    kept: int
    report: ProbeReport
    probe: Batch

    def __str__(self) -> str:
        again = f"; {self.known} of the new samples are old ones" if self.known else ""
        return (
            f"The guard has {len(self.probe)} trusted samples from now on, {self.kept} of them old. {_compared(self)}"
            f"{again}.\nThe new ones: {self.report}"
        )


def renew(
    guard: Guard,
    new: Any,
    *,
    model: Any,
    share: float = 1.0,
    accept_worse: bool = False,
    tolerance: float = 1.0,
    alpha: float = 0.01,
    train: Any = None,
    task: str | Task | None = None,
    loss: AnyLoss | None = None,
    forward: ForwardFn | None = None,
) -> Renewal:
    """Replaces a guard's trusted samples, or a share of them, if the present model does as well on the new ones.

        print(taster.probe.renew(guard, fresh, model=learner))

    The model after a renewal is the new anchor, and harm done before is not held against later updates. So the new
    samples are compared with the old ones first. If the model does worse on them, one of three things is true, and only
    the owner can tell which: the world has changed, and the model has not followed; the new labels are wrong; or the
    model was harmed in a way that the old samples do not show.

    Args:
        guard: whose trusted samples are replaced.
        new: the new samples: a `Batch`, a data set or a data loader. All are taken.
        model: the present model: the learner around it, or a module.
        share: of the old samples that give way: 1 for all. The first of each class go, which are the oldest if new ones
            have come by renewals alone.
        accept_worse: renews all the same where the model does worse, and logs a warning.
        tolerance: how much worse it may do, in percentage points (of a fraction: accuracy, explained variance).
        alpha: of the test: Fisher's exact one for accuracy, Welch's for other quantities.
        train, task, loss, forward: as in `taster.probe.check`.

    Returns:
        what was found and done; `print` it.

    Raises:
        GuardError: where the model does significantly worse on the new samples, unless that is accepted; for a guard
            without trusted samples, or a share outside 0 to 1. Nothing has changed then.
        BatchError, ModelError, LabelError: for samples that do not fit the model.

    Source: taster's own; the tests are Fisher 1922 and Welch 1947.
    """
    check_is_guard(guard)
    if isinstance(share, bool) or not 0 < share <= 1:
        raise GuardError(f"{_NAME}: got a share of {share!r}, wanted a fraction above 0 and at most 1")
    old = trusted_samples(guard)
    fresh = as_trusted_data(new, _NAME, min_samples=2)
    view = view_of(model, _NAME, loss=loss, forward=forward)
    report = check(fresh, view, train=train, task=task, tolerance=tolerance)
    chosen = named_task(task, _NAME)
    words, before = _measured(old, view, chosen)
    _, after = _measured(fresh, view, chosen)
    p = _pvalue(before, after)
    fell = float(before.double().mean() - after.double().mean())
    known = len(set(digests(fresh)) & set(digests(old)))
    staying = _staying(old, share)
    probe = fresh if staying is None else joined_batches([old.select(staying), fresh], _NAME)
    found = Renewal(
        words,
        float(before.double().mean()),
        float(after.double().mean()),
        p,
        p < alpha and 100 * fell > tolerance,
        known,
        0 if staying is None else len(staying),
        report,
        probe,
    )
    if found.worse and not accept_worse:
        suspects = f" {len(report.suspects)} of their labels look wrong: see taster.probe.check." * bool(
            report.suspects
        )
        raise GuardError(
            f"{_NAME}: got new samples that the model does worse on: {_compared(found)}. The world has changed, or the "
            f"new labels are wrong, or the model was harmed unseen.{suspects} Wanted samples that it does as well on; "
            "renew(..., accept_worse=True) once you know that the samples are right and the model is to stay"
        )
    guard.set_trusted_data(probe)
    if found.worse:
        _log.warning("trusted data renewed although the model does worse on the new ones: %s", _compared(found))
    else:
        _log.info("trusted data renewed: %s", _compared(found))
    return found


def trusted_samples(guard: Guard) -> Batch:
    """The trusted samples of a guard: those of the first gate that has some.

    Raises:
        GuardError: when there are none.
    """
    for gate in guard.gates:
        probe = getattr(gate, "probe", None)
        if isinstance(probe, Batch):
            return probe
    raise GuardError(f"{_NAME}: got {guard!r}, no gate of which has trusted samples; wanted one such as taster.guard")


def _measured(samples: Batch, view: View, task: Task | None) -> tuple[str, Tensor]:
    """What counts in a task, in words, and how well the model does on each sample."""
    source = ProbeSource(_NAME, samples, task)
    source.check(view)
    name, values = next(iter(source.measure(view).items()))
    return source.words.get(name, name), values


def _pvalue(old: Tensor, new: Tensor) -> float:
    """Of the hypothesis that the new samples' mean is no lower than the old ones'."""
    from scipy.stats import fisher_exact, ttest_ind  # slow to import, and only needed here

    if old.dtype == torch.bool:
        right_old, right_new = int(old.sum()), int(new.sum())
        table = [[right_new, len(new) - right_new], [right_old, len(old) - right_old]]
        return float(fisher_exact(table, alternative="less").pvalue)
    a, b = old.double().cpu().numpy(), new.double().cpu().numpy()
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return float(b[0] >= a[0])
    return float(ttest_ind(b, a, equal_var=False, alternative="less").pvalue)


def _staying(old: Batch, share: float) -> Tensor | None:
    """The indices of the old samples that stay; None for none."""
    leaving = round(share * len(old))
    if leaving >= len(old):
        return None
    try:
        codes = classes_of(labels_of(old, _NAME))
    except LabelError:
        codes = None
    if codes is None or leaving == 0:
        return torch.arange(leaving, len(old))
    stays = torch.ones(len(old), dtype=torch.bool)
    counts = torch.bincount(codes)
    for code, kept in enumerate(shares(counts, len(old) - leaving)):
        stays[(codes == code).nonzero().flatten()[: int(counts[code]) - kept]] = False
    return stays.nonzero().flatten()


def _compared(found: Renewal) -> str:
    return (
        f"{found.quantity} {100 * found.new:.1f} % on the {found.report.samples} new samples, {100 * found.old:.1f} % "
        f"on the old ones (p = {found.p:.2g} for no worse)"
    )
