"""SpamBayes against its formulas written out in plain Python, and as an estimator of scikit-learn's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline

from taster.errors import LabelError, SettingError
from taster.models.spam_bayes import SpamBayes


def upper_tail(z: float, n: int) -> float:
    """Of χ² with 2n degrees of freedom at 2z: a finite sum, as the program has it."""
    term = total = math.exp(-z)
    for i in range(1, n):
        term *= z / i
        total += term
    return min(total, 1.0)


def by_hand(
    messages: list[set[int]], labels: list[int], message: set[int], *, s: float, x: float, most: int, least: float
) -> float:
    """I of one message."""
    scored: list[tuple[float, int, float]] = []
    for word in sorted(message):
        held = [label for tokens, label in zip(messages, labels, strict=True) if word in tokens]
        spam, ham = sum(held) / labels.count(1), (len(held) - sum(held)) / labels.count(0)
        p = spam / (spam + ham) if held else 0.0
        f = (s * x + len(held) * p) / (s + len(held))
        if abs(f - 0.5) >= least:
            scored.append((-abs(f - 0.5), word, f))
    used = [f for _, _, f in sorted(scored)[:most]]
    if not used:
        return 0.5
    spammy = 1 - upper_tail(-sum(math.log(1 - f) for f in used), len(used))
    hammy = 1 - upper_tail(-sum(math.log(f) for f in used), len(used))
    return (1 + spammy - hammy) / 2


def corpus(n: int, words: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Messages whose words lean to ham or spam, some of them to neither."""
    random = np.random.default_rng(seed)
    y = random.permutation(np.arange(n) % 3 == 0).astype(int)
    lean = random.uniform(0.02, 0.4, size=(2, words))
    return (random.random((n, words)) < lean[y]).astype(float), y


@pytest.mark.parametrize(
    ("s", "x", "most", "least"), [(1.0, 0.5, 150, 0.1), (0.45, 0.5, 5, 0.1), (2.0, 0.4, 150, 0.0), (1.0, 0.5, 3, 0.3)]
)
def test_scores_are_those_of_the_formulas(s: float, x: float, most: int, least: float) -> None:
    X, y = corpus(60, 25, seed=1)
    fresh, _ = corpus(40, 25, seed=2)
    fresh[0] = 0  # a message without a word
    learned = SpamBayes(strength=s, prior=x, max_tokens=most, min_strength=least).fit(X, y)
    messages = [set(np.flatnonzero(row).tolist()) for row in X]
    wanted = [
        by_hand(messages, y.tolist(), set(np.flatnonzero(row).tolist()), s=s, x=x, most=most, least=least)
        for row in fresh
    ]
    assert learned.scores(fresh) == pytest.approx(wanted, abs=1e-9)
    assert np.std(wanted) > 0.05
    assert learned.scores(fresh)[0] == 0.5


def test_verdicts_are_by_the_thresholds_and_predictions_by_a_half() -> None:
    X, y = corpus(300, 40, seed=3)
    learned = SpamBayes(ham_threshold=0.2, spam_threshold=0.8).fit(X, np.where(y == 1, "spam", "ham"))
    scores, verdicts = learned.scores(X), learned.verdicts(X)
    assert set(verdicts[scores <= 0.2]) == {"ham"}
    assert set(verdicts[scores > 0.8]) == {"spam"}
    assert set(verdicts[(scores > 0.2) & (scores <= 0.8)]) == {"unsure"}
    assert learned.predict(X).tolist() == ["spam" if score > 0.5 else "ham" for score in scores]
    assert np.allclose(learned.predict_proba(X), np.stack([1 - scores, scores], axis=1))
    assert learned.score(X, np.where(y == 1, "spam", "ham")) > 0.8


def test_learning_in_parts_by_weights_and_sparse_is_the_same() -> None:
    X, y = corpus(90, 20, seed=4)
    whole = SpamBayes().fit(X, y)
    parts = SpamBayes().partial_fit(X[:30], y[:30], classes=[0, 1]).partial_fit(X[30:], y[30:])
    doubled = SpamBayes().fit(np.concatenate([X, X[:10]]), np.concatenate([y, y[:10]]))
    weighted = SpamBayes().fit(X, y, sample_weight=np.where(np.arange(90) < 10, 2, 1))
    assert np.array_equal(whole.scores(X), parts.scores(X))
    assert np.allclose(doubled.scores(X), weighted.scores(X))
    assert not np.allclose(doubled.scores(X), whole.scores(X))
    assert np.array_equal(SpamBayes().fit(sparse.csr_matrix(X), y).scores(sparse.csr_matrix(X)), whole.scores(X))
    again = clone(whole).set_params(strength=0.45)
    assert not hasattr(again, "classes_")
    assert again.get_params()["strength"] == 0.45


def test_it_works_behind_a_vectorizer() -> None:
    texts = ["see you at noon", "free prize now", "lunch at noon", "claim your prize"] * 5
    labels = ["ham", "spam"] * 10
    filtering = make_pipeline(CountVectorizer(), SpamBayes()).fit(texts, labels)
    assert filtering.predict(["noon at lunch", "prize free prize"]).tolist() == ["ham", "spam"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prior": 1.0}, "prior: got 1.0, wanted over 0 and under 1"),
        ({"strength": 0.0}, "strength: got 0.0, wanted over 0"),
        ({"max_tokens": 0}, "max_tokens: got 0"),
        ({"min_strength": 0.6}, "min_strength: got 0.6"),
        ({"ham_threshold": 0.95}, "ham_threshold: got 0.95, wanted 0 to spam_threshold"),
        ({"spam_threshold": 1.5}, "spam_threshold: got 1.5"),
    ],
)
def test_settings_out_of_range_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        SpamBayes(**settings).fit(*corpus(9, 3, seed=0))


def test_what_it_cannot_learn_is_told_before_anything_changes() -> None:
    X, y = corpus(30, 5, seed=0)
    with pytest.raises(LabelError, match="labels of 3 classes"):
        SpamBayes().fit(X, np.arange(30) % 3)
    with pytest.raises(LabelError, match="labels of 1 classes"):
        SpamBayes().fit(X, np.zeros(30))
    learned = SpamBayes().fit(X, y)
    before = learned.scores(X)
    with pytest.raises(LabelError, match="got the label 2"):
        learned.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="X has 4 features, but SpamBayes is expecting 5"):
        learned.partial_fit(X[:, :4], y)
    with pytest.raises(ValueError, match="sample_weight"):
        learned.partial_fit(X, y, sample_weight=np.full(30, -1.0))
    with pytest.raises(ValueError, match="X has 4 features"):
        learned.scores(X[:, :4])
    with pytest.raises(LabelError, match="labels of 1 classes"):
        learned.fit(X, np.zeros(30))
    assert np.array_equal(learned.scores(X), before)
    assert np.array_equal(learned.fit(X, y).scores(X), before)
