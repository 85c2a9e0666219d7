"""The promise of `detection_bound`, against an attacker who sees every verdict and searches.

The population is a row of small cells. Whatever the attacker does is done to cells: those that he breaks are classified
wrongly from then on, and the true drop is the share of them. Which cells the trusted samples lie in, he does not know;
but a refusal says that there is one. So he breaks a few more cells at a time, keeps what passes, leaves alone what was
refused, and goes on: the ladder attack of Blum and Hardt 2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from taster import detection_bound
from taster.defences.gates.anchor_test import fallen, fallen_held_out
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.swings import Swings
from taster.stats.detection_bound import held_out_samples
from taster.stats.paired_sums import PairedSums

CHECKS, REFUSALS = 1000, 20
CHURN = 0.05
"""What is classified differently beyond the drop, half of it gained."""

RUNS = 20


@dataclass
class Reached:
    """How far an attacker has come: the true drop at the last check that let him pass, in points."""

    drop: float
    seen: float
    checks: int
    refusals: int
    held_out_refusals: int


def sums_of(samples: int, lost: int, gained: int) -> dict[str, PairedSums]:
    return {
        "correct": PairedSums(
            True, np.array([float(samples)]), np.array([float(lost - gained)]), np.array([float(lost + gained)])
        )
    }


class Audit:
    """What an audit does: the open samples first, then those held out."""

    def __init__(self, draw: np.random.Generator, samples: int, held_out: int) -> None:
        self.criteria = HarmCriteria(1.0, 0.01, class_tolerance=None)
        self.swings = Swings()
        self.sizes = [samples - held_out, held_out]
        self.cells = 100 * samples
        # How many samples lie in each cell, and how many the honest part of the update loses and gains.
        self.inside = [np.bincount(draw.integers(self.cells, size=n), minlength=self.cells) for n in self.sizes]
        self.honest = [draw.binomial(n, CHURN / 2, size=2) for n in self.sizes]

    def refused(self, hit: np.ndarray) -> str:
        """By which samples, of which so many are hit."""
        open_sums, held_out = (
            sums_of(n, int(lost) + int(broken), int(gained))
            for n, broken, (lost, gained) in zip(self.sizes, hit, self.honest, strict=True)
        )
        if fallen(self.criteria, open_sums, {}, self.swings):
            return "open"
        if self.sizes[1] and fallen_held_out(self.criteria, held_out, {}, self.swings):
            return "held out"
        return ""


def search(seed: int, samples: int, held_out: int, refusals: int = REFUSALS) -> Reached:
    """Breaks cells by the answers, until checks or refusals are used up."""
    draw = np.random.default_rng(seed)
    audit = Audit(draw, samples, held_out)
    order = draw.permutation(audit.cells)
    # So few cells at a time, once there are refusals, that they last as long as the checks.
    fine = max(1, round(audit.cells * refusals / CHECKS / samples))
    width, place, broken, checks = audit.cells // 200, 0, 0, 0
    hit = np.zeros(2, dtype=int)
    answers: list[str] = []
    while checks < CHECKS and len(answers) < refusals:
        checks += 1
        tried = order[place : place + width]
        more = np.array([inside[tried].sum() for inside in audit.inside])
        place += width
        answer = audit.refused(hit + more)
        if answer:
            answers.append(answer)
            width = max(fine, width // 8)
        else:
            hit, broken = hit + more, broken + len(tried)
    lost, gained = audit.honest[0]
    seen = 100 * float(hit[0] + lost - gained) / audit.sizes[0]
    return Reached(100 * broken / audit.cells, seen, checks, len(answers), answers.count("held out"))


@cache
def reached(samples: int, held_out: int, refusals: int = REFUSALS, runs: int = RUNS) -> list[Reached]:
    return [search(seed, samples, held_out, refusals) for seed in range(runs)]


@cache
def bound(samples: int, held_out: int, refusals: int, held_out_refusals: int) -> float:
    return detection_bound(
        samples,
        alpha=HarmCriteria(1.0, 0.01).alpha_held_out,
        checks=CHECKS,
        refusals=refusals,
        held_out=held_out,
        held_out_refusals=held_out_refusals,
    ).max_accuracy_drop


SAMPLES = 2500


def test_an_attacker_who_searches_gets_no_further_than_the_bound() -> None:
    held_out = held_out_samples(SAMPLES)
    runs = reached(SAMPLES, held_out)
    assert sum(run.refusals for run in runs) >= 0.75 * REFUSALS * RUNS
    assert sum(run.checks for run in runs) >= 0.8 * CHECKS * RUNS
    beyond = sum(run.drop > bound(SAMPLES, held_out, REFUSALS, run.held_out_refusals) for run in runs)
    assert beyond <= 0.05 * RUNS
    # He did search: what the open samples show of the harm is less than there is.
    assert sum(run.drop > 1.0 for run in runs) > RUNS / 4


def test_without_samples_that_are_held_out_the_same_attacker_gets_further() -> None:
    held_out = held_out_samples(SAMPLES)
    with_them = np.array([run.drop for run in reached(SAMPLES, held_out)])
    without = np.array([run.drop for run in reached(SAMPLES - held_out, 0)])
    difference = without.mean() - with_them.mean()
    error = float(np.sqrt((without.var(ddof=1) + with_them.var(ddof=1)) / RUNS))
    assert difference > 4 * error
    assert difference > 1.0


def test_refusals_must_be_counted() -> None:
    """By a hundred refusals an attacker gets beyond a bound that does not count them, though the samples that he
    learned of show hardly a drop; the bound that counts them holds."""
    runs = reached(1000, 0, 100, runs=6)
    assert sum(run.drop > bound(1000, 0, 0, 0) for run in runs) > len(runs) / 2
    assert all(run.seen < 3.5 for run in runs)
    assert not any(run.drop > bound(1000, 0, 100, 0) for run in runs)


def test_with_ten_thousand_samples_refusals_cost_next_to_nothing() -> None:
    searched = detection_bound(10_000, checks=1000, refusals=20, churn=5.0).max_accuracy_drop
    assert searched <= 3.0
    assert searched <= 1.3 * detection_bound(10_000, checks=1000, churn=5.0).max_accuracy_drop
    # That is due to the samples that are held out.
    assert detection_bound(10_000, checks=1000, refusals=20, churn=5.0, held_out=0).max_accuracy_drop > searched
