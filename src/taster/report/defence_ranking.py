"""How each defence does over all attacks of a run: its cost on honest data, and the worst attack against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taster.report.summary import MeanStd, SummaryRow

HEADINGS = ("defence", "honest", "refused", "worst final", "by", "worst step", "by", "cost")

LEGEND = (
    "honest: final accuracy on the stream nobody attacks, in points over that of no defence; refused: its updates that "
    "were undone, in %; worst final: the lowest final accuracy over all attacks, in points over the same; worst step: "
    "the greatest fall in one step over all attacks, in points; each a mean over seeds, with the attack that did it."
)


@dataclass(frozen=True)
class DefenceRank:
    """One defence over all attacks; the figures are those of `LEGEND`."""

    defence: str
    honest_accuracy_change: float
    refused: float
    final_accuracy_change: float
    final_attack: str
    worst_step: float | None
    worst_step_attack: str
    cost: float | None

    def cells(self) -> list[str]:
        """The cells of the table, in the order of `HEADINGS`."""

        def points(value: float | None) -> str:
            return "–" if value is None else MeanStd(value, None).text(sign=True)

        return [
            self.defence,
            points(self.honest_accuracy_change),
            f"{self.refused:.1f}",
            points(self.final_accuracy_change),
            self.final_attack,
            points(self.worst_step),
            self.worst_step_attack,
            "–" if self.cost is None else f"{self.cost:.2f}",
        ]


def rank_defences(lines: Sequence[SummaryRow], honest: str | None, undefended: str | None) -> list[DefenceRank]:
    """One for each defence, in the order of the lines.

    Args:
        lines: of all attacks and defences.
        honest: the label of the attack that attacks nothing.
        undefended: the label of the defence that defends nothing.

    Returns:
        an empty list if the run lacks either, or has no other attack.
    """
    by = {(line.attack, line.defence): line for line in lines}
    base = by.get((honest or "", undefended or ""))
    defences = list(dict.fromkeys(line.defence for line in lines))
    found = []
    for defence in defences:
        clean = by.get((honest or "", defence))
        attacked = [line for line in lines if line.defence == defence and line.attack != honest]
        if base is None or clean is None or not attacked:
            return []
        last = min(attacked, key=lambda line: line.after.mean)
        steps = [(line.worst_step.mean, line.attack) for line in attacked if line.worst_step is not None]
        step, step_by = min(steps, default=(None, ""))
        found.append(
            DefenceRank(
                defence,
                clean.after.mean - base.after.mean,
                100 * clean.rejected.mean / (clean.steps.mean + 1),
                last.after.mean - base.after.mean,
                last.attack,
                step,
                step_by,
                clean.cost.mean if clean.cost is not None and defence != undefended else None,
            )
        )
    return found
