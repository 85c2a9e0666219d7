"""Attacks of Nelson et al. 2008 on spam filters, on short messages, and on long ones that are joined of them.

    python benchmarks/spam_filter.py --data sms-spam-collection.tsv [--parts dictionary focused length tokens]
        [--seeds 3] [--train 2000] [--own 600] [--test 800] [--out FILE]

The data are lines of label, tab, text (the labels sorted: ham, spam). Repeated lines are dropped, and each seed cuts
the rest anew into training messages, the attacker's own, and test messages. The vocabulary is that of the training
messages. Shares of the attack's messages are of the clean training set. Settings are the filters' own defaults;
nothing was chosen by test messages.

dictionary    ham lost by the share of the attack's messages, for each filter; controls: none, and as much own spam
focused       targets lost by the share of words that the attacker knows; each target is one of his own ham, of
              five words or more, that the filter lets through before
length        the same attack on messages that are joined of several of one class, and with half of all spam
tokens        the same attack by size of the vocabulary, number of tokens that a message is judged by, and strength s
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sklearn
import torch
from sklearn.naive_bayes import BernoulliNB, MultinomialNB
from torch import Tensor

from taster.attacks import (
    DatasetAttack,
    DatasetBudget,
    DatasetKnowledge,
    DatasetPoisonSettings,
    Poison,
    dictionary_attack,
    focused_attack,
)
from taster.core.batch import Batch
from taster.data import Table, TableSet, fit_words, load_table
from taster.models.spam_bayes import SpamBayes
from taster.offline import EstimatorTraining

PUBLISHED = {"dictionary": {"share": 1.0, "ham_lost": 36.0}}
"""Nelson et al. 2008: the Usenet dictionary, 10,000 e-mails of TREC 2005, SpamBayes; ham that is spam or unsure."""

FILTERS: dict[str, Callable[[], Any]] = {
    "spam_bayes": SpamBayes,
    "bernoulli_nb": BernoulliNB,
    "multinomial_nb": MultinomialNB,
}
SHARES = (0.0, 0.005, 0.01, 0.02, 0.05)
Rows = list[dict[str, Any]]


class Messages:
    """The features of one seed's cut."""

    def __init__(self, data: TableSet, sizes: dict[str, int], seed: int) -> None:
        ends = [sizes["train"], sizes["train"] + sizes["own"], len(data)]
        self.data, self.seed = data, seed
        self.train, self.own, self.test = (
            data.batch(torch.arange(start, end)) for start, end in zip([0, *ends[:2]], ends, strict=True)
        )

    def knowledge(self) -> DatasetKnowledge:
        generator = torch.Generator().manual_seed(self.seed)
        return DatasetKnowledge(2, self.own, (EstimatorTraining(lambda: SpamBayes(), 2),), generator)

    def attacked(self, attack: DatasetAttack) -> Batch:
        return attack(self.train, self.knowledge()).samples


def cut(table: Table, sizes: dict[str, int], seed: int, *, joined: int = 1, half_spam: bool = False) -> Table:
    """Training, own and test messages behind each other, each joined of several of its class and of its part."""
    generator = torch.Generator().manual_seed(seed)
    order, start = torch.randperm(len(table), generator=generator), 0
    texts: list[str] = []
    labels: list[Tensor] = []
    assert table.texts is not None
    for size in sizes.values():
        part = order[start : start + size]
        start += size
        y = table.y[part]
        if half_spam:
            y = torch.arange(size) % 2
        for row, label in enumerate(y.tolist()):
            same = part[table.y[part] == label]
            drawn = same[torch.randint(len(same), (joined,), generator=generator)]
            if joined == 1 and not half_spam:
                drawn = part[row : row + 1]
            texts.append(" ".join(table.texts[i] for i in drawn.tolist()))
        labels.append(y)
    return Table(table.name, torch.cat(labels), table.class_names, table.columns, texts=tuple(texts))


def own_spam(share: float) -> DatasetAttack:
    """The control: as many messages of spam as there are."""
    budget = DatasetBudget(share, insert=True, content="any", labels=True)

    def poison(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        spam = knowledge.own.select(knowledge.own.y == 1)
        count = budget.max_poisoned(len(clean))
        if not count:
            return Poison(clean)
        drawn = spam.select(torch.randint(len(spam), (count,), generator=knowledge.generator))
        return Poison(Batch(torch.cat([clean.x, drawn.x]), torch.cat([clean.y, drawn.y])))

    return DatasetAttack(budget, poison)


def dictionary(share: float, **settings: Any) -> DatasetAttack:
    return dictionary_attack(poisoning=DatasetPoisonSettings(poison_fraction=share), **settings)


ATTACKS: dict[str, Callable[[float], DatasetAttack]] = {
    "own_spam": own_spam,
    "vocabulary": dictionary,
    "half_vocabulary": lambda share: dictionary(share, word_share=0.5),
    "frequent": lambda share: dictionary(share, words="frequent"),
}


def judged(estimator: Any, samples: Batch, test: Batch) -> dict[str, float]:
    """Percentages of test messages, of a filter trained on these samples."""
    filtering = estimator.fit(samples.x.numpy(), samples.y.numpy())
    ham, spam = (test.x[test.y == label].numpy() for label in (0, 1))
    if isinstance(filtering, SpamBayes):
        verdicts, passed = filtering.verdicts(ham), filtering.verdicts(spam) == "ham"
        as_spam, lost = verdicts == "spam", verdicts != "ham"
    else:
        as_spam = lost = filtering.predict(ham) == 1
        passed = filtering.predict(spam) == 0
    return {
        name: 100 * float(found.mean())
        for name, found in (("ham_as_spam", as_spam), ("ham_lost", lost), ("spam_passed", passed))
    }


def measure_dictionary(table: Table, sizes: dict[str, int], seed: int) -> Iterator[dict[str, Any]]:
    parts = Messages(fit_words(cut(table, sizes, seed), torch.arange(sizes["train"])), sizes, seed)
    for attack, make in ATTACKS.items():
        for share in SHARES if attack != "half_vocabulary" else (0.01, 0.05):
            if not share and attack != "vocabulary":
                continue
            samples = parts.attacked(make(share)) if share else parts.train
            for name, filtering in FILTERS.items():
                yield {
                    "attack": attack,
                    "share": 100 * share,
                    "filter": name,
                    **judged(filtering(), samples, parts.test),
                }


def measure_focused(table: Table, sizes: dict[str, int], seed: int, targets: int = 8) -> Iterator[dict[str, Any]]:
    parts = Messages(fit_words(cut(table, sizes, seed), torch.arange(sizes["train"])), sizes, seed)
    # Only targets that the filter lets through, and of the length of a sentence, can be lost.
    before = SpamBayes().fit(parts.train.x.numpy(), parts.train.y.numpy())
    own = parts.own.x[parts.own.y == 0]
    fitting = (before.verdicts(own.numpy()) == "ham") & (own.sum(1).numpy() >= 5)
    chosen = fitting.nonzero()[0][:targets].tolist()
    for share in (0.01, 0.05):
        poisoning = DatasetPoisonSettings(poison_fraction=share)
        for known in (0.0, 0.1, 0.5, 0.9):  # of nothing: the control
            found = []
            for target in chosen:
                attack = own_spam(share)
                if known:
                    attack = focused_attack(poisoning=poisoning, known_share=known, target=target)
                samples = parts.attacked(attack)
                filtering = SpamBayes().fit(samples.x.numpy(), samples.y.numpy())
                found.append(filtering.verdicts(own[target : target + 1].numpy())[0])
            rates = {"target_as_spam": found.count("spam"), "target_lost": len(found) - found.count("ham")}
            rest = judged(SpamBayes(), samples, parts.test)
            yield {
                "share": 100 * share,
                "known": known,
                "targets": len(found),
                **{name: 100 * count / len(found) for name, count in rates.items()},
                "other_ham_lost": rest["ham_lost"],
            }


def measure_length(table: Table, sizes: dict[str, int], seed: int) -> Iterator[dict[str, Any]]:
    for joined, half in ((1, False), (4, False), (16, False), (1, True), (4, True), (16, True)):
        cutting = cut(table, sizes, seed, joined=joined, half_spam=half)
        parts = Messages(fit_words(cutting, torch.arange(sizes["train"])), sizes, seed)
        words = float(parts.test.x[parts.test.y == 0].sum(1).median())
        for share in (0.0, 0.01, 0.05):
            samples = parts.attacked(dictionary(share)) if share else parts.train
            found = judged(SpamBayes(), samples, parts.test)
            yield {"joined": joined, "half_spam": half, "median_words": words, "share": 100 * share, **found}


def measure_tokens(table: Table, sizes: dict[str, int], seed: int) -> Iterator[dict[str, Any]]:
    cases: list[dict[str, Any]] = [{}, {"max_words": 500}, {"max_words": 2000}]
    cases += [{"max_tokens": 5}, {"max_tokens": 10_000}, {"strength": 0.45}, {"joined": 16, "max_tokens": 15}]
    cases += [{"joined": 16, "max_tokens": 10_000}, {"joined": 16, "max_words": 500}]
    for case in cases:
        cutting = cut(table, sizes, seed, joined=case.get("joined", 1))
        data = fit_words(cutting, torch.arange(sizes["train"]), max_words=case.get("max_words"))
        parts = Messages(data, sizes, seed)
        settings = {name: case[name] for name in ("max_tokens", "strength") if name in case}
        for share in (0.0, 0.01):
            samples = parts.attacked(dictionary(share)) if share else parts.train
            found = judged(SpamBayes(**settings), samples, parts.test)
            yield {"case": json.dumps(case), "words": len(data.feature_names), "share": 100 * share, **found}


PARTS = {
    "dictionary": (measure_dictionary, ("attack", "share", "filter")),
    "focused": (measure_focused, ("share", "known")),
    "length": (measure_length, ("joined", "half_spam", "share")),
    "tokens": (measure_tokens, ("case", "share")),
}


def summary(rows: Rows, keys: tuple[str, ...]) -> Rows:
    """Means and standard deviations over seeds."""
    groups: dict[tuple[Any, ...], Rows] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    found = []
    for group, members in groups.items():
        entry: dict[str, Any] = dict(zip(keys, group, strict=True))
        for name in members[0]:
            if name not in (*keys, "seed"):
                values = [float(member[name]) for member in members]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                entry[name] = f"{statistics.mean(values):.1f} ± {spread:.1f}"
        found.append(entry)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="lines of label, tab, text")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--own", type=int, default=600)
    parser.add_argument("--test", type=int, default=800)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file for the figures, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = load_table(options.data, label=0, text=1, header=False).without_repeats()
    sizes = {"train": options.train, "own": options.own, "test": options.test}
    if sum(sizes.values()) > len(table):
        parser.error(f"--data: got {len(table)} different messages, wanted {sum(sizes.values())}")
    asked = {key: value for key, value in vars(options).items() if key not in ("data", "out")}
    result: dict[str, Any] = {**asked, "messages": len(table), "published": PUBLISHED}
    result |= {"scikit-learn": sklearn.__version__, "torch": torch.__version__, "machine": platform.machine()}
    for part in options.parts:
        measure, keys = PARTS[part]
        started = time.process_time()
        rows = [{"seed": seed, **row} for seed in range(options.seeds) for row in measure(table, sizes, seed)]
        result[part] = {"rows": rows, "summary": summary(rows, keys)}
        print(f"{part}: {time.process_time() - started:.0f} s of processor time")
        for entry in result[part]["summary"]:
            print("  ", entry, flush=True)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
