"""Every attack and defence in the taxonomy of Barreno et al."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, get_args

from taster.attacks import ATTACKS, DATASET_ATTACKS, UPDATE_ATTACKS
from taster.core.threat import Countermeasure, Harm, Threat, countermeasure_of, threat_of
from taster.defences import DATASET_DEFENCES, DEFENCES
from taster.federated import AGGREGATORS

Entries = dict[str, list[dict[str, Any]]]
"""Rows by what they are of: "attacks on streams", "defences of federations" and so on."""

_LAYERS: dict[str, tuple[type[Threat] | type[Countermeasure], Mapping[str, Callable[..., Any]]]] = {
    "attacks on streams": (Threat, ATTACKS),
    "attacks on federations": (Threat, UPDATE_ATTACKS),
    "attacks on training sets": (Threat, DATASET_ATTACKS),
    "defences of streams": (Countermeasure, DEFENCES),
    "defences of federations": (Countermeasure, AGGREGATORS),
    "defences of training sets": (Countermeasure, DATASET_DEFENCES),
}

_ATTACK_COLUMNS = {
    key: key for key in ("influence", "specificity", "violation", "knowledge", "universality", "family", "timing")
}
_DEFENCE_COLUMNS = {"kind": "kind", "against": "answers"}

_PROPOSED: dict[Harm, str] = {
    "targeted integrity": "regularization, randomization",
    "targeted availability": "regularization, randomization",
    "indiscriminate integrity": "regularization",
    "indiscriminate availability": "regularization",
}
"""The defences that Barreno et al. set against attacks on training."""

ABOUT = """\
# Threats

What each attack does and each defence answers, in the taxonomy of Barreno et al. 2006 ("Can machine learning be
secure?"), as `taster list --threat --markdown` prints it. An attack or a defence says it above its own function.

## The words
An attack on learning has an *influence*: *causative*, if it acts on training, or *exploratory*, if it only asks a
finished model. All attacks here are causative.

Its *specificity* is *targeted*, at certain samples, inputs or one class, or *indiscriminate*. It is a *violation* of
*integrity*, if chosen inputs get the answer that the attacker wants and the model stays good otherwise; or of
*availability*, if the model errs so much that it is of no use, to all or for one class.

*Knowledge* is of the model that learns, and of whatever else the attack needs: all of it (*white box*), a part of it
(*grey box*), or nothing but the task (*black box*). In a federation every client has the model, and white box means
that the attacker also sees what the others send. *Universality* tells one pattern for all samples (*universal*) from a
change made for each (*individual*); where only labels or updates are changed there is neither.

The *family* is one of six into which poisoning of data is divided, by how it gets at training: wrong labels
(*label*); samples replaced in a stream, each with some probability (*p-tampering*); samples whose features are those of
another class (*feature space*); poison optimized through training, all of it or some steps (*bilevel*); poison made by
a trained generator (*generative*); and poisoning the samples that count most (*influence*). Backdoors, noise and most
attacks on updates are in none of them.

*Timing* is when the harm is done: by each poisoned step (*stream step*), by one step that others have prepared
(*accumulative then trigger*), by each round of a federation (*round*), or by a training set that is poisoned *before
training*.

A row is about default settings. A name with "-" says nothing about itself: it does no harm, or defends against none.

## What answers what
Barreno et al. propose *regularization* against every attack on training: whatever keeps the learner near what was known
before leaves poison less to say. Against targeted attacks they propose *randomization*, so that the attacker cannot
compute where the border will be; against exploratory ones to hide information and to mislead. They also propose to
*test* what was learned on samples that are known.

Taster's defences are of these and later kinds. *Regularization* bounds what one update may do. *Sanitization* drops,
weights down or changes suspicious samples before they are learned. A *test* measures the updated model on trusted
samples and undoes what does harm (the "reject on negative impact" of Nelson et al. 2008 tests so sample by sample).
*Robust statistics* are what a minority cannot move far: a center of the clients' updates, a loss without its largest
terms. An *ensemble* lets models vote that have each seen a part of the data. *Recovery* keeps a model learning that
refuses much. No entry of the table below rests on randomization or on hiding alone, but the tests hide information:
nobody but the owner has the probe, and the order in which it is looked at is random. Regularization and randomization
are also options of a training on a data set, beside any defence: `weight_decay`, `label_smoothing` and `subsample`, a
random share of the samples that is trained on, in `[offline]`.

"Answers" says which harm a defence is made for, not that it succeeds: that is measured, see the
[results](../results/README.md). The tests do not see a breach of integrity that costs no accuracy, such as a backdoor.
"""


def threats() -> Entries:
    """What the attacks and defences that come with taster say about themselves, with all of its keys None where one
    says nothing. `against` is a list."""
    said_of: dict[type, Callable[..., Any]] = {Threat: threat_of, Countermeasure: countermeasure_of}
    return {
        layer: [_row(name, cls, said_of[cls](function)) for name, function in members.items()]
        for layer, (cls, members) in _LAYERS.items()
    }


def threat_table(layer: str, rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and texts of a layer's table, as narrow as can be: specificity and violation are one column, and the
    influence, which is the same for all, is left out, as are the notes.

    Args:
        layer: a key of `threats`.
        rows: what it leads to.
    """
    if layer.startswith("defences"):
        return ["name", "kind", "answers"], [[r["name"], _cell(r["kind"]), _cell(r["against"])] for r in rows]
    more = ("universality", "family", "timing")
    headings = ["name", "harm", "knows", *more]
    return headings, [
        [r["name"], _cell(_harm(r)), _cell(r["knowledge"]), *(_cell(r[key]) for key in more)] for r in rows
    ]


def threats_markdown(entries: Entries) -> str:
    """The taxonomy as a page in Markdown.

    Args:
        entries: of `threats`.
    """
    parts = [ABOUT.rstrip("\n"), _answers(entries)]
    for layer, rows in entries.items():
        if not rows:
            continue
        columns = _DEFENCE_COLUMNS if layer.startswith("defences") else _ATTACK_COLUMNS
        lines = [
            _line(["name", *columns.values(), "note"]),
            "|" + "---|" * (len(columns) + 2),
            *(_line([f"`{row['name']}`", *(_cell(row[key]) for key in columns), row["note"] or ""]) for row in rows),
        ]
        parts += [f"## {layer.capitalize()}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _row(name: str, cls: type[Threat] | type[Countermeasure], said: Threat | Countermeasure | None) -> dict[str, Any]:
    values = {field.name: None for field in fields(cls)} if said is None else asdict(said)
    return {"name": name} | {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def _answers(entries: Entries) -> str:
    """A row for each harm: who does it, what Barreno et al. set against it, what answers it here."""
    lines = [_line(["harm", "Barreno et al.", "attacks", "defences"]), "|" + "---|" * 4]
    rows = [row for some in entries.values() for row in some]
    for harm in get_args(Harm):
        does = [r["name"] for r in rows if _harm(r) == harm]
        answers = [r["name"] for r in rows if harm in (r.get("against") or [])]
        lines.append(_line([harm, _PROPOSED[harm], _names(does), _names(answers)]))
    return "\n".join(lines)


def _harm(row: dict[str, Any]) -> str | None:
    """The cell of an attack; None for a defence, and for what says nothing."""
    return f"{row['specificity']} {row['violation']}" if row.get("violation") else None


def _cell(value: str | list[str] | None) -> str:
    """A value as text: "-" for nothing."""
    if isinstance(value, list):
        return ", ".join(value)
    return "-" if value in (None, "none") else str(value)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"
