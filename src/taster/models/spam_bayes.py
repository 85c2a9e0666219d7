"""SpamBayes: a spam filter that combines the scores of the words of a message by Fisher's method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_X_y
from sklearn.utils.validation import check_is_fitted

from taster.errors import LabelError, SettingError

_ROWS = 500
"""Messages that are scored at once, dense."""


class SpamBayes(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A spam filter on the presence of tokens, as an estimator of scikit-learn's.

        p(w) = r_S(w) / (r_S(w) + r_H(w))         r: the share of the spam, or of the ham, that holds the token w
        f(w) = (s x + N(w) p(w)) / (s + N(w))     N(w): the number of messages that hold it
        S = 1 − Q(−2 Σ ln(1 − f(w)), 2n)          Q: the upper tail of χ² with 2n degrees of freedom
        H = 1 − Q(−2 Σ ln f(w), 2n)
        I = (1 + S − H) / 2                       0: ham, 1: spam

    The sums go over the n tokens of a message with the greatest |f(w) − 1/2|, at most `max_tokens` of those where it is
    at least `min_strength`; of equals the first ones. Without any I = 1/2. Nelson et al. call our S by H, and our H by
    S.

    A feature above 0 says that the token is there. Of the two classes the second in sorted order is spam. `predict` is
    by I > 1/2, as `predict_proba` has it; the filter's own three answers are those of `verdicts`.

    Args:
        prior: x, the score of a token that was never seen.
        strength: s, how many messages the prior counts for. 1 in the paper, 0.45 in the program.
        max_tokens: the most tokens that a message is judged by.
        min_strength: |f(w) − 1/2| from which a token counts.
        ham_threshold: messages with I up to this are ham. 0.15 in the paper, 0.2 in the program.
        spam_threshold: messages with I over this are spam; those between are unsure.

    Attributes:
        classes_: the two classes.
        class_counts_: messages of each, [2].
        token_counts_: messages of each that hold each token, [2, d].

    Source: Robinson 2003 ("A statistical approach to the spam problem"); as in Nelson et al. 2008, Section 2.3; the
        limits of tokens and their strength are those of the program (spambayes.org).
    """

    classes_: Any
    n_features_in_: int
    class_counts_: NDArray[np.float64]
    token_counts_: NDArray[np.float64]

    def __init__(
        self,
        *,
        prior: float = 0.5,
        strength: float = 1.0,
        max_tokens: int = 150,
        min_strength: float = 0.1,
        ham_threshold: float = 0.15,
        spam_threshold: float = 0.9,
    ) -> None:
        self.prior = prior
        self.strength = strength
        self.max_tokens = max_tokens
        self.min_strength = min_strength
        self.ham_threshold = ham_threshold
        self.spam_threshold = spam_threshold

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SpamBayes:
        """Counts messages.

        Args:
            X: [n, d], dense or sparse.
            y: labels of two classes, [n].
            sample_weight: how many messages each row stands for, [n]. Default: one.

        Raises:
            SettingError: for settings out of range.
            LabelError: for labels of one class, or more than two.
            ValueError: for arrays of other shapes, or that are not finite.
        """
        return self._count(X, y, np.unique(np.asarray(y)), sample_weight, first=True)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> SpamBayes:
        """Counts more messages.

        Args:
            X, y, sample_weight: as of `fit`; y may be of one class.
            classes: both classes, at the first call.

        Raises:
            SettingError, LabelError, ValueError: see `fit`.
        """
        first = not hasattr(self, "classes_")
        known = np.unique(np.asarray(y if classes is None else classes)) if first else self.classes_
        return self._count(X, y, known, sample_weight, first=first)

    def _count(self, X: Any, y: Any, known: Any, sample_weight: Any, *, first: bool) -> SpamBayes:
        self._check_settings()
        X, y = check_X_y(X, y, accept_sparse="csr")
        if len(known) != 2:
            raise LabelError(f"got labels of {len(known)} classes, wanted two: ham and spam, sorted in this order")
        if not np.isin(y, known).all():
            raise LabelError(f"got the label {y[~np.isin(y, known)][0]}, wanted one of {known.tolist()}")
        if not first and X.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {X.shape[1]} features, but SpamBayes is expecting {self.n_features_in_} features")
        weights = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=float)
        if weights.shape != (len(y),) or not (weights >= 0).all():
            raise ValueError(f"sample_weight: got {weights.shape}, wanted ({len(y)},) numbers of at least 0")
        held = (X > 0).astype(float)
        found = [np.where(y == label, weights, 0.0) for label in known]
        counts, tokens = np.array([w.sum() for w in found]), np.array([np.asarray(w @ held).ravel() for w in found])
        if not first:
            counts, tokens = self.class_counts_ + counts, self.token_counts_ + tokens
        self.classes_, self.n_features_in_ = known, X.shape[1]
        self.class_counts_, self.token_counts_ = counts, tokens
        return self

    @property
    def token_scores_(self) -> NDArray[np.float64]:
        """f(w) of every token, [d], over 0 for ham and under 1 for spam."""
        check_is_fitted(self)
        ham, spam = self.token_counts_ / np.maximum(self.class_counts_, np.finfo(float).tiny)[:, None]
        seen = self.token_counts_.sum(0)
        share = np.divide(spam, ham + spam, out=np.full_like(spam, self.prior), where=ham + spam > 0)
        scores: NDArray[np.float64] = (self.strength * self.prior + seen * share) / (self.strength + seen)
        return scores

    def scores(self, X: Any) -> NDArray[np.float64]:
        """I of every message, [m], from 0 for ham to 1 for spam.

        Raises:
            ValueError: for another number of features than was learned.
        """
        f = self.token_scores_
        distance = np.abs(f - 0.5)
        order = np.argsort(-distance, kind="stable")
        order = order[distance[order] >= self.min_strength]
        logs = np.log(np.stack([1 - f[order], f[order]], axis=1))
        found = []
        for held in self._chunks(X):
            held = held[:, order]
            used = held & (held.cumsum(axis=1) <= self.max_tokens)
            n, sums = used.sum(axis=1), -(used.astype(float) @ logs)
            # The upper tail of χ² with 2n degrees of freedom at 2z is Q(n, z), of which nothing is left at n = 0.
            spam, ham = (1 - gammaincc(np.maximum(n, 1), z) for z in sums.T)
            found.append(np.where(n > 0, (1 + spam - ham) / 2, 0.5))
        return np.concatenate(found)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """1 − I and I, [m, 2]. They are scores: where few messages are unsure, nearly all are close to 0 or 1."""
        scores = self.scores(X)
        return np.stack([1 - scores, scores], axis=1)

    def predict(self, X: Any) -> Any:
        """The second class where I > 1/2, else the first, [m]."""
        spam = self.scores(X) > 0.5
        return self.classes_[spam.astype(int)]

    def verdicts(self, X: Any) -> NDArray[np.str_]:
        """What the filter says: "ham", "unsure" or "spam", [m]."""
        scores = self.scores(X)
        return np.where(scores <= self.ham_threshold, "ham", np.where(scores <= self.spam_threshold, "unsure", "spam"))

    def _chunks(self, X: Any) -> Iterator[NDArray[np.bool_]]:
        X = check_array(X, accept_sparse="csr")
        if X.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {X.shape[1]} features, but SpamBayes is expecting {self.n_features_in_} features")
        for start in range(0, X.shape[0], _ROWS):
            part = X[start : start + _ROWS]
            yield np.asarray((part.toarray() if hasattr(part, "toarray") else part) > 0)

    def _check_settings(self) -> None:
        """Raises:
        SettingError: for settings out of range.
        """
        for name, fits, wanted in (
            ("prior", 0 < self.prior < 1, "over 0 and under 1"),
            ("strength", 0 < self.strength < np.inf, "over 0"),
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("min_strength", 0 <= self.min_strength <= 0.5, "0 to 0.5"),
            ("ham_threshold", 0 <= self.ham_threshold <= self.spam_threshold, "0 to spam_threshold"),
            ("spam_threshold", self.spam_threshold <= 1, "at most 1"),
        ):
            if not fits:
                raise SettingError(f"SpamBayes: {name}: got {getattr(self, name)}, wanted {wanted}")
