"""A scikit-learn classifier that keeps learning digits, a third of its stream poisoned.

python examples/sklearn_partial_fit.py
"""

import copy
import logging

from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

import taster

logging.disable(logging.WARNING)  # taster logs each refusal as a warning; here they are printed

X, y = load_digits(return_X_y=True)
X, X_rest, y, y_rest = train_test_split(X / 16, y, train_size=1000, random_state=0)
X_trusted, X_test, y_trusted, y_test = train_test_split(X_rest, y_rest, train_size=500, random_state=0)

# What has been released: trained on the first 200 digits.
released = SGDClassifier(random_state=0).fit(X[:200], y[:200])
guarded = taster.guarded(released, X_trusted, y_trusted)
unguarded = copy.deepcopy(released)

for step, start in enumerate(range(200, 1000, 25)):
    X_batch, y_batch = X[start : start + 25], y[start : start + 25]
    if 10 <= step < 20:
        y_batch = (y_batch + 1) % 10  # somebody relabels what is learned
    guarded.partial_fit(X_batch, y_batch)
    unguarded.partial_fit(X_batch, y_batch)
    verdict = guarded.last_record.verdict
    if not verdict.committed:
        print(f"step {step:2}: {verdict.reason}")
    if step in (9, 19, 31):
        print(f"accuracy: guarded {guarded.score(X_test, y_test):.3f}, unguarded {unguarded.score(X_test, y_test):.3f}")

print({name: count for name, count in guarded.counters.items() if count})
