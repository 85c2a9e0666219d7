"""The recommended guard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taster.core.guard import Guard
from taster.core.threat import countermeasure
from taster.core.trusted_data import as_trusted_data
from taster.defences.gates.evaluate_source import EvaluateFn
from taster.defences.gates.metric_gate import Tolerance, metric_gate
from taster.defences.gates.probe_gate import probe_gate
from taster.defences.salvage.low_score_half import retry_low_score_half
from taster.errors import SettingError
from taster.utils.setting_types import Count, PositiveCount
from taster.utils.settings import validate_settings

_MAX_REWIND = 8


@countermeasure(
    "test",
    "indiscriminate availability",
    "targeted availability",
    note="A backdoor costs no accuracy, so that integrity is not answered.",
)
@validate_settings
def guard(
    probe: Any = None,
    *,
    task: str | Any | None = None,
    evaluate: EvaluateFn | None = None,
    tolerance: Tolerance | None = None,
    check_every: PositiveCount = 1,
    probe_bfloat16: bool = False,
    seed: Count | None = None,
) -> Guard:
    """The recommended guard: `probe_gate`, and `retry_low_score_half` for batches that it rejects.

    Args:
        probe: labelled samples that nobody else can write to and that are never trained on: 500 or more. A `Batch`, a
            data set or a data loader.
        task: what counts, told from the shapes of outputs and labels by default; see `probe_gate`.
        evaluate: of (model), in place of a probe: one number a sample, [n], or {name: [n]}; see `metric_gate`.
        tolerance: drop that is let through: in percentage points, 1 by default; with `evaluate` in the quantity's own
            units, and to be given.
        check_every: steps between checks; more than 1 costs less, and harm lasts for up to that many steps.
        probe_bfloat16: runs the model on the probe in bfloat16, which costs less on hardware that supports it.
        seed: of the order in which the probe is looked at; None takes one that nobody knows.

    Nothing needs tuning: how much a step may cost follows from how much honest steps swing. A slow drift is undone by
    going back up to eight steps, for which the learner keeps five snapshots.

    Raises:
        SettingError: for neither or both of probe and evaluate; evaluate without a tolerance.

    Source: taster's own; the results page of the guard shows what was measured, and what was left out.
    """
    if evaluate is not None:
        if tolerance is None:
            raise SettingError(
                "guard: got evaluate without a tolerance, wanted guard(evaluate=..., tolerance=...): the drop of the "
                "mean that is let through, in the quantity's own units (0.01 for one point of right answers)"
            )
        if probe is not None or task is not None:
            raise SettingError(
                "guard: got evaluate, wanted guard(evaluate=..., tolerance=...) without a probe and a task"
            )
        return metric_gate(
            evaluate=evaluate, tolerance=tolerance, check_every=check_every, max_rewind=_MAX_REWIND, seed=seed
        )
    if probe is None:
        raise SettingError("guard: got no trusted data, wanted guard(probe), or guard(evaluate=..., tolerance=...)")
    if isinstance(tolerance, Mapping):
        raise SettingError("guard: got several tolerances, wanted one number of percentage points")
    trusted = as_trusted_data(probe, "guard", min_samples=2)
    gate = probe_gate(
        trusted,
        task=task,
        tolerance=1.0 if tolerance is None else tolerance,
        check_every=check_every,
        max_rewind=_MAX_REWIND,
        probe_bfloat16=probe_bfloat16,
        seed=seed,
    )
    return gate + retry_low_score_half(trusted)
