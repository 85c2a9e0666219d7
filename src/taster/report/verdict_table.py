"""The first table of a page: how each defence came out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from taster.report.blocks import Section, Table, Text
from taster.report.summary import MeanStd
from taster.report.verdict import CONFIDENCE, FEWEST_SEEDS, MARGIN, SUCCESS_MARGIN, DefenceVerdict, Estimate, Judged
from taster.report.verdict_text import WORDS

if TYPE_CHECKING:
    from taster.report.data import ReportData
    from taster.report.figure_files import FigureFiles

_HEADINGS = ("defence", "verdict", "loss", "by", "at most", "success", "by", "at most", "own loss", "seeds")
_SUCCESS, _PRICE = (5, 6, 7), (8,)


def verdict_section(data: ReportData, figures: FigureFiles) -> Section | None:
    """A row for each defence that was attacked; None where none was."""
    verdicts = data.verdicts
    if not verdicts:
        return None
    rows = [_cells(one) for one in verdicts]
    left_out = {
        *(_SUCCESS if all(one.worst_success() is None for one in verdicts) else ()),
        *(_PRICE if all(one.price is None for one in verdicts) else ()),
    }
    kept = [i for i in range(len(_HEADINGS)) if i not in left_out]
    words = [place for place, i in enumerate(kept) if i in (0, 1, 3, 6)]
    bad = frozenset((i, 1) for i, one in enumerate(verdicts) if one.status == "broken")
    table = Table(
        "How each defence came out, with the attack that decided it",
        [_HEADINGS[i] for i in kept],
        [[row[i] for i in kept] for row in rows],
        left=words,
        bad=bad,
    )
    return Section("Held or broken", [table, Text(_legend(data, success=5 in kept, price=8 in kept), "soft")])


def _cells(verdict: DefenceVerdict) -> list[str]:
    return [
        verdict.defence,
        WORDS[verdict.status].lower(),
        *_of(verdict.deciding_loss()),
        *_of(verdict.deciding_success()),
        "–" if verdict.price is None else _text(verdict.price),
        str(verdict.seeds),
    ]


def _of(found: tuple[Judged, Estimate] | None) -> tuple[str, str, str]:
    """The value, whose it is, and its upper bound."""
    if found is None:
        return "–", "–", "–"
    one, value = found
    at_most = "?" if math.isinf(value.upper) else MeanStd(value.upper, None).text()
    return _text(value), one.attack, at_most


def _text(value: Estimate) -> str:
    return MeanStd(value.mean, value.deviation).text()


def _legend(data: ReportData, *, success: bool, price: bool) -> str:
    """What the words and figures mean in this run."""
    if data.honest is None:
        base = "its accuracy before the attack, as the recipe has no run that nobody attacks"
    elif data.undefended is None:
        base = "that of the same defence where nobody attacks, as the recipe has no run that nothing defends"
    else:
        base = "that of the run that nobody attacks and nothing defends"
    said = [
        f"loss: points of accuracy at the end under {base}, of the same seed, mean ± standard deviation over seeds; at "
        f"most: what is not ruled out at {100 * CONFIDENCE:g} % confidence"
    ]
    if success:
        said.append(
            "success: an attack's own inputs that are answered as it wants, a backdoor's over those before the attack "
            "where these were measured, in %"
        )
    if price:
        said.append("own loss: the same where nobody attacks, which is what the defence itself costs")
    held = f"held: a loss of at most {MARGIN:g} points" + (
        f" and a success of at most {SUCCESS_MARGIN:g} %" if success else ""
    )
    said.append(
        f"{held}, for every attack at that confidence; broken: by one attack more than that, at that confidence; "
        "costly: the defence itself loses more, and no attack surely adds as much; not settled: neither, or fewer than "
        f"{FEWEST_SEEDS} seeds"
    )
    return "; ".join(said) + "."
