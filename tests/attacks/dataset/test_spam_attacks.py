"""Attacks on spam filters: the words that their messages hold, and what becomes of ham."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.attacks.dataset.spam import WORDS, knowledge, mail

from taster import Batch
from taster.attacks import DATASET_ATTACKS, DatasetPoisonSettings
from taster.attacks.dataset_attack import PoisonedDataset
from taster.data import fit_words, load_table
from taster.errors import AttackError, SettingError
from taster.models.spam_bayes import SpamBayes


def attacked(name: str, clean: Batch, seed: int = 0, fraction: float = 0.05, **settings: Any) -> PoisonedDataset:
    attack = DATASET_ATTACKS[name](poisoning=DatasetPoisonSettings(poison_fraction=fraction), **settings)
    return attack(clean, knowledge(seed))


def inserted(found: PoisonedDataset, clean: Batch) -> Batch:
    assert torch.equal(found.samples.x[: len(clean)], clean.x)
    assert torch.equal(found.samples.y[: len(clean)], clean.y)
    assert found.poisoned.tolist() == [False] * len(clean) + [True] * (len(found.samples) - len(clean))
    return found.samples.select(slice(len(clean), None))


def ham_lost(samples: Batch, seed: int) -> float:
    """The share of fresh ham that a filter trained on these samples does not let through, in percent."""
    fresh = mail(300, seed=2000 + seed)
    verdicts = SpamBayes().fit(samples.x.numpy(), samples.y.numpy()).verdicts(fresh.x[fresh.y == 0].numpy())
    return 100 * float((verdicts != "ham").mean())


def test_the_dictionary_holds_every_word_a_share_of_them_or_the_attackers_most_frequent() -> None:
    clean = mail(200, seed=0)
    every = inserted(attacked("dictionary_attack", clean), clean)
    assert every.x.shape == (10, WORDS)
    assert bool((every.x == 1).all())
    assert bool((every.y == 1).all())
    part = inserted(attacked("dictionary_attack", clean, word_share=0.3), clean)
    assert int(part.x[0].sum()) == 60
    assert bool((part.x == part.x[0]).all())
    other = inserted(attacked("dictionary_attack", clean, seed=1, word_share=0.3), clean)
    assert not torch.equal(part.x[0], other.x[0])
    held = knowledge().own.x.sum(0)
    frequent = inserted(attacked("dictionary_attack", clean, words="frequent", word_share=0.3), clean)
    chosen = frequent.x[0] == 1
    assert int(chosen.sum()) == 60
    assert float(held[chosen].min()) >= float(held[~chosen].max())
    known = inserted(attacked("dictionary_attack", clean, words="frequent"), clean)
    assert torch.equal(known.x[0] == 1, held > 0)
    assert inserted(attacked("dictionary_attack", clean, spam_class=0), clean).y.unique().tolist() == [0]


def test_the_focused_messages_hold_known_words_of_the_target_and_no_others_of_ham() -> None:
    clean, own = mail(200, seed=0), knowledge().own
    ham = (own.y == 0).nonzero().flatten()
    for share in (0.3, 1.0):
        found = inserted(attacked("focused_attack", clean, target=3, known_share=share), clean)
        words = own.x[ham[3]] == 1
        known = (found.x == 1).all(0) & words
        assert int(known.sum()) >= math.ceil(share * int(words.sum()))
        others = torch.ones(len(own), dtype=torch.bool)
        others[ham[3]] = False
        elsewhere = (own.x[others & (own.y == 0)] == 1).any(0)
        assert not bool(((found.x == 1) & elsewhere & ~known).any())
        assert bool((found.y == 1).all())
    plain = inserted(attacked("focused_attack", clean, target=3, known_share=0.3, disguise=False), clean)
    assert bool((plain.x == plain.x[0]).all())
    assert int(plain.x[0].sum()) == math.ceil(0.3 * int(words.sum()))
    assert not bool((plain.x[0].bool() & ~words).any())


def test_the_target_is_the_message_and_the_class_that_it_is_to_get() -> None:
    attack, known = DATASET_ATTACKS["focused_attack"](target=2), knowledge()
    assert attack.target is not None
    found = attack.target(known)
    ham = (known.own.y == 0).nonzero().flatten()
    assert torch.equal(found.x, known.own.x[ham[2] : ham[2] + 1])
    assert found.y.tolist() == [1]


@pytest.mark.parametrize("words", ["vocabulary", "frequent"])
def test_a_dictionary_costs_ham_and_as_much_ordinary_spam_does_not(words: str) -> None:
    losses: dict[str, list[float]] = {"clean": [], "ordinary": [], "dictionary": []}
    for seed in range(3):
        clean, own = mail(300, seed=seed), knowledge(seed).own
        spam = own.select(own.y == 1).select(slice(0, 15))
        losses["clean"].append(ham_lost(clean, seed))
        losses["ordinary"].append(ham_lost(Batch(torch.cat([clean.x, spam.x]), torch.cat([clean.y, spam.y])), seed))
        losses["dictionary"].append(ham_lost(attacked("dictionary_attack", clean, seed, words=words).samples, seed))
    means = {name: statistics.fmean(found) for name, found in losses.items()}
    assert means["dictionary"] > means["ordinary"] + 10
    assert abs(means["ordinary"] - means["clean"]) < 5


def test_the_target_is_blocked_and_other_ham_is_not() -> None:
    rises, others = [], []
    for seed in range(3):
        clean, known = mail(300, seed=seed), knowledge(seed)
        for target in range(5):
            settings = {"target": target, "known_share": 0.7}
            attack = DATASET_ATTACKS["focused_attack"](
                poisoning=DatasetPoisonSettings(poison_fraction=0.05), **settings
            )
            wanted = attack.target(known).x.numpy()  # type: ignore[misc]
            before, after = (
                SpamBayes().fit(samples.x.numpy(), samples.y.numpy())
                for samples in (clean, attack(clean, known).samples)
            )
            rises.append(float(after.scores(wanted)[0] - before.scores(wanted)[0]))
        others.append(ham_lost(attack(clean, known).samples, seed) - ham_lost(clean, seed))
    assert statistics.fmean(rises) > 0.4
    assert statistics.fmean(others) < 10


def test_the_same_seed_makes_the_same_poison_and_no_budget_none() -> None:
    clean = mail(100, seed=0)
    for name in ("dictionary_attack", "focused_attack"):
        settings = {"word_share": 0.5} if name == "dictionary_attack" else {}
        first, second = (attacked(name, clean, seed=4, **settings) for _ in range(2))
        assert torch.equal(first.samples.x, second.samples.x)
        with pytest.raises(AttackError, match="which is no sample of 100"):
            attacked(name, clean, fraction=0.005)


def test_what_is_no_spam_filter_is_told() -> None:
    clean = mail(100, seed=0)
    counts = Batch(2 * clean.x, clean.y)
    for name in ("dictionary_attack", "focused_attack"):
        with pytest.raises(AttackError, match="values between 0 and 2, wanted the presence of tokens"):
            attacked(name, counts)
        with pytest.raises(AttackError, match="spam_class: got 2, wanted 0 to 1"):
            attacked(name, clean, spam_class=2)
    with pytest.raises(AttackError, match="target: got 500, wanted 0 to"):
        attacked("focused_attack", clean, target=500)
    own = knowledge().own
    mute = Batch(torch.where(own.y[:, None] == 0, 0.0, own.x), own.y)
    attack = DATASET_ATTACKS["focused_attack"]()
    with pytest.raises(AttackError, match="a message without a word"):
        attack(clean, knowledge(own=mute))
    with pytest.raises(AttackError, match="disguise: got no spam"):
        attack(clean, knowledge(own=own.select(own.y == 0)))
    for settings in ({"word_share": 0.0}, {"words": "all"}, {"spam_class": -1}):
        with pytest.raises(SettingError):
            DATASET_ATTACKS["dictionary_attack"](**settings)
    for settings in ({"known_share": 1.5}, {"target": -1}, {"disguise": "yes"}):
        with pytest.raises(SettingError):
            DATASET_ATTACKS["focused_attack"](**settings)


def test_short_messages_are_lost_to_a_dictionary(data_folder: Path) -> None:
    table = load_table(data_folder / "spam" / "sms-spam-collection.tsv", label=0, text=1).without_repeats()
    lost: dict[float, list[float]] = {0.0: [], 0.05: []}
    for seed in range(3):
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
        train, own, test = order[:1000], order[1000:1200], order[1200:1700]
        words = fit_words(table, train, max_words=1500)
        ham = words.x[test[words.y[test] == 0]].numpy()
        for fraction, found in lost.items():
            samples = words.batch(train)
            if fraction:
                attack = DATASET_ATTACKS["dictionary_attack"](poisoning=DatasetPoisonSettings(poison_fraction=fraction))
                samples = attack(samples, knowledge(seed, own=words.batch(own))).samples
            verdicts = SpamBayes().fit(samples.x.numpy(), samples.y.numpy()).verdicts(ham)
            found.append(100 * float((verdicts != "ham").mean()))
    assert statistics.fmean(lost[0.05]) > statistics.fmean(lost[0.0]) + 10
