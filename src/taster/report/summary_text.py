"""The first sentences of a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from taster.report.defence_ranking import DefenceRank
from taster.report.names import data_name
from taster.report.summary import MeanStd, SummaryRow

if TYPE_CHECKING:
    from taster.experiments.recipes.schema import Recipe

_FEW = 4
"""Up to so many defences a sentence names one by one."""


def sentences(
    recipe: Recipe, lines: list[SummaryRow], standing: Sequence[DefenceRank], undefended: str | None
) -> list[str]:
    """What was run; for a run with many defences, how the best and the worst of them did.

    Args:
        recipe: of the run.
        lines: of its table.
        standing: of its defences.
        undefended: the label of the defence that defends nothing; None without one.
    """
    start = MeanStd.of([line.start.mean for line in lines]).mean
    seeds = max(line.seeds for line in lines)
    names = [entry.name for entry in recipe.defence]
    behind = f"behind each of {len(names)} defences" if len(names) > 1 else f"behind {recipe.defence[0].label}"
    behind = "with no defence" if names == ["none"] else behind
    source = "a live stream" if recipe.federated is None else "its clients' updates"
    done = (
        f"Trained on {data_name(recipe)} to {start:.1f} % test accuracy, {recipe.model.name} went on learning from "
        f"{source}, while {len(recipe.attack)} attacks (controls among them) tried to break it {behind}, "
        f"with {seeds} seed{'s' if seeds > 1 else ''} each."
    )
    if len(names) > _FEW and standing:
        return [done, _stand(standing, undefended)]
    return [done]


def _stand(standing: Sequence[DefenceRank], undefended: str | None) -> str:
    """The defences that lost least and most, beside no defence."""

    def end(one: DefenceRank) -> str:
        return f"{MeanStd(one.final_accuracy_change, None).text(sign=True)} points ({one.final_attack})"

    none = next(one for one in standing if one.defence == undefended)
    others = sorted((one for one in standing if one.defence != undefended), key=lambda one: -one.final_accuracy_change)
    best, last = others[0], others[-1]
    return (
        "Under the attack that is worst for each, accuracy at the end, beside that of the stream which nobody attacks, "
        f"was {end(none)} with no defence, {end(best)} behind {best.defence}, which lost least, and {end(last)} behind "
        f"{last.defence}, which lost most."
    )
