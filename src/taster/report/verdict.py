"""Whether a run was held or broken: the one definition, which docs/page.md explains and a page reads.

An attack is judged by what it took of the accuracy and, where it has inputs of its own, by how many of them got the
answer it wants. *Loss* is the accuracy at the end of the run that nobody attacks and nobody defends, minus the
accuracy at the end, of the same seed, in points. *Success* is the success rate of a backdoor, where it was measured
over that before the attack, or the share of targets that were hit, in percent.

A defence **held** an attack if loss and success are, at 95 % confidence each, no more than `MARGIN` and
`SUCCESS_MARGIN`; it was **broken** if one of them is, at that confidence, more. Otherwise, and with fewer than
`FEWEST_SEEDS` seeds, it is **unsettled**. A defence that loses more than the margin where nobody attacks, and to which
no attack adds more than that, is **costly**. A defence held if it held every attack of the run in every seed that was
asked for, and was broken if one attack broke it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy.stats import t as student_t

from taster.stats.proportion import Proportion

MARGIN = 2.0
"""Points of accuracy that may be lost."""

SUCCESS_MARGIN = 10.0
"""Percent of an attack's own inputs that may get the answer it wants."""

FEWEST_SEEDS = 3
"""With fewer nothing is claimed."""

CONFIDENCE = 0.95
"""Of each bound by itself, on one side."""

_MOST_SEEDS = 100

Status = Literal["held", "broken", "costly", "unsettled"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, or a share of trials, with a lower and an upper bound of `CONFIDENCE` each.

    Attributes:
        mean, lower, upper: in points or percent; the bounds are infinite for a single seed.
        deviation: standard deviation over seeds; None for a share of trials, and for a single seed.
        seeds: how many there are.
        hits: of a share of trials.
    """

    mean: float
    lower: float
    upper: float
    deviation: float | None
    seeds: int
    hits: Proportion | None = None

    @classmethod
    def of_seeds(cls, values: Sequence[float]) -> Estimate:
        """Of one value for each seed, with the bounds of Student's t; at least one value."""
        mean, n = statistics.fmean(values), len(values)
        if n == 1:
            return cls(mean, -math.inf, math.inf, None, 1)
        deviation = statistics.stdev(values)
        reach = float(student_t.ppf(CONFIDENCE, n - 1)) * deviation / math.sqrt(n)
        # No more than all can be lost or won; of values near it the bounds of Student's t go beyond.
        return cls(mean, max(-100.0, mean - reach), min(100.0, mean + reach), deviation, n)

    @classmethod
    def of_hits(cls, hits: Proportion, seeds: int) -> Estimate:
        """Of trials of all seeds together, with Clopper and Pearson's bounds."""
        lower, upper = hits.interval(2 * CONFIDENCE - 1)
        return cls(100 * hits.share, 100 * lower, 100 * upper, None, seeds, hits)

    def status(self, margin: float) -> Literal["held", "broken", "unsettled"]:
        """Beside the margin; see the module."""
        if self.seeds < FEWEST_SEEDS:
            return "unsettled"
        return "held" if self.upper <= margin else "broken" if self.lower > margin else "unsettled"

    def seeds_to_settle(self, margin: float) -> int | None:
        """How many seeds would settle it, if they came out as these did; None for a share, a single seed, or if a
        hundred would not do."""
        if self.deviation is None:
            return None
        distance = abs(self.mean - margin)
        for n in range(max(FEWEST_SEEDS, self.seeds + 1), _MOST_SEEDS + 1):
            if float(student_t.ppf(CONFIDENCE, n - 1)) * self.deviation / math.sqrt(n) < distance:
                return n
        return None


@dataclass(frozen=True)
class Judged:
    """One attack against one defence. `loss` is None without anything to compare with, `success` if the attack has no
    inputs of its own; `added` is the loss beside the same defence where nobody attacks."""

    attack: str
    loss: Estimate | None
    added: Estimate | None
    success: Estimate | None
    complete: bool

    @property
    def parts(self) -> list[Literal["held", "broken", "unsettled"]]:
        """The status of loss and of success, as far as there are any."""
        found = [] if self.loss is None else [self.loss.status(MARGIN)]
        return found + ([] if self.success is None else [self.success.status(SUCCESS_MARGIN)])

    @property
    def status(self) -> Literal["held", "broken", "unsettled"]:
        """Of the attack; that of a part of the seeds is never held."""
        if "broken" in self.parts:
            return "broken"
        known = self.complete and self.loss is not None
        return "held" if known and set(self.parts) == {"held"} else "unsettled"


@dataclass(frozen=True)
class DefenceVerdict:
    """How one defence came out of a run.

    Attributes:
        defence: its label.
        status: see the module.
        attacks: every attack but the one that attacks nothing.
        price: the loss where nobody attacks; None where that is not known, or is zero by definition.
        seeds: the fewest that any of its attacks has.
    """

    defence: str
    status: Status
    attacks: Sequence[Judged]
    price: Estimate | None
    seeds: int

    def worst_loss(self, status: Status | None = None) -> tuple[Judged, Estimate] | None:
        """The attack with the greatest mean loss, of those alone whose loss has a status, and that loss."""
        return _worst(self._losses, MARGIN, status)

    def worst_success(self, status: Status | None = None) -> tuple[Judged, Estimate] | None:
        """The same of the greatest mean success."""
        return _worst(self._successes, SUCCESS_MARGIN, status)

    def deciding_loss(self) -> tuple[Judged, Estimate] | None:
        """The attack on whose loss the verdict rests, and that loss: the greatest of those that broke the defence, else
        the one of which most is not ruled out."""
        return _deciding(self._losses, MARGIN)

    def deciding_success(self) -> tuple[Judged, Estimate] | None:
        """The same of success."""
        return _deciding(self._successes, SUCCESS_MARGIN)

    @property
    def _losses(self) -> list[tuple[Judged, Estimate]]:
        return [(one, one.loss) for one in self.attacks if one.loss is not None]

    @property
    def _successes(self) -> list[tuple[Judged, Estimate]]:
        return [(one, one.success) for one in self.attacks if one.success is not None]


def _worst(
    found: Sequence[tuple[Judged, Estimate]], margin: float, status: Status | None
) -> tuple[Judged, Estimate] | None:
    chosen = [pair for pair in found if status in (None, pair[1].status(margin))]
    return max(chosen, key=lambda pair: pair[1].mean, default=None)


def _deciding(found: Sequence[tuple[Judged, Estimate]], margin: float) -> tuple[Judged, Estimate] | None:
    broke = _worst(found, margin, "broken")
    return broke or max(found, key=lambda pair: (pair[1].upper, pair[1].mean), default=None)


def judge(
    rows: Sequence[Mapping[str, Any]],
    defences: Sequence[str],
    seeds: int,
    honest: str | None,
    undefended: str | None,
    attacks: Sequence[str],
) -> list[DefenceVerdict]:
    """One verdict for each defence that has any result of an attack, in the order given.

    Without an attack that attacks nothing, a stream is compared with its own accuracy before the attack, and a training
    set with nothing; without a defence that defends nothing, with the same defence where nobody attacks. Attacks that
    changed nothing of a training set are controls and not judged.

    Args:
        rows: of results.json.
        defences: labels.
        seeds: how many each cell was asked for.
        honest: the label of the attack that attacks nothing.
        undefended: the label of the defence that defends nothing.
        attacks: labels of all attacks.
    """
    cells: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["attack"], row["defence"]), {})[row["seed"]] = row
    found = []
    for defence in defences:
        own = cells.get((honest or "", defence), {})
        base = own if undefended is None else cells.get((honest or "", undefended), {})
        judged = []
        for attack in attacks:
            group = cells.get((attack, defence), {})
            untouched = bool(group) and all(row.get("poisoned") == 0 for row in group.values())
            if attack != honest and not untouched:
                loss = _loss(base, group) if honest is not None else _loss_since_start(group)
                complete = len(group) == seeds and (loss is None or loss.seeds == seeds)
                judged.append(Judged(attack, loss, _loss(own, group), _success(group), complete))
        measured = [one for one in judged if one.parts]
        if measured:
            price = None if defence == undefended else _loss(base, own)
            fewest = min(len(cells[one.attack, defence]) for one in measured)
            found.append(DefenceVerdict(defence, _status(judged, price), judged, price, fewest))
    return found


def _status(judged: Sequence[Judged], price: Estimate | None) -> Status:
    if price is not None and price.status(MARGIN) == "broken" and not any(_adds_harm(one) for one in judged):
        return "costly"
    if any(one.status == "broken" for one in judged):
        return "broken"
    return "held" if all(one.status == "held" for one in judged) else "unsettled"


def _adds_harm(one: Judged) -> bool:
    """Whether an attack breaks a defence by more than what the defence itself loses."""
    added = one.added is not None and one.added.status(MARGIN) == "broken"
    return added or (one.success is not None and one.success.status(SUCCESS_MARGIN) == "broken")


def _loss(base: Mapping[int, Mapping[str, Any]], group: Mapping[int, Mapping[str, Any]]) -> Estimate | None:
    """Of the seeds that both have."""
    values = [_accuracy(base[seed]) - _accuracy(row) for seed, row in group.items() if seed in base]
    return Estimate.of_seeds(values) if values else None


def _loss_since_start(group: Mapping[int, Mapping[str, Any]]) -> Estimate | None:
    values = [row["acc_start"] - _accuracy(row) for row in group.values() if "acc_start" in row]
    return Estimate.of_seeds(values) if values else None


def _accuracy(row: Mapping[str, Any]) -> float:
    """At the end."""
    return float(row["accuracy"] if "accuracy" in row else row["acc_after"])


def _success(group: Mapping[int, Mapping[str, Any]]) -> Estimate | None:
    rows = list(group.values())
    if not rows:
        return None
    if all(row.get("asr") is not None for row in rows):
        return Estimate.of_seeds([row["asr"] - (row.get("asr_start") or 0.0) for row in rows])
    hits = targets_hit(rows)
    if hits is not None:
        return Estimate.of_hits(hits, len(rows))
    shares = [row["target_success"] for row in rows if row.get("target_success") is not None]
    return Estimate.of_seeds(shares) if shares else None


def targets_hit(rows: Sequence[Mapping[str, Any]]) -> Proportion | None:
    """Of all targets of all rows together; None where it is not known how many there were.

    Args:
        rows: of one attack and one defence in results.json.
    """
    counted = [row for row in rows if row.get("targets")]
    if not counted or len(counted) < len(rows):
        return None
    return Proportion(
        sum(round(row["target_success"] / 100 * row["targets"]) for row in counted),
        sum(row["targets"] for row in counted),
    )
