"""A river pipeline that learns from a stream, a stretch of which is poisoned.

python examples/river_stream.py
"""

import logging

from river import linear_model, metrics, preprocessing
from river.datasets import synth

import taster

logging.disable(logging.WARNING)  # taster logs each refusal as a warning; here they are printed


def stream(seed):
    """Samples of three features, labelled by a threshold with some noise."""
    return synth.SEA(variant=0, noise=0.05, seed=seed)


def build():
    """A model that has learned nothing."""
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


guarded = taster.guarded(build(), stream(seed=1).take(500), every=100)
unguarded = build()
accuracies = {"guarded": metrics.Accuracy(), "unguarded": metrics.Accuracy()}

for index, (x, y) in enumerate(stream(seed=2).take(3000)):
    # How well each would have served this sample, before it learns from it.
    for name, model in (("guarded", guarded), ("unguarded", unguarded)):
        accuracies[name].update(y, model.predict_one(x))

    if 1000 <= index < 2000:
        y = not y  # somebody flips what is learned
    guarded.learn_one(x, y)
    unguarded.learn_one(x, y)

    if index % 100 == 99:  # a check has been made
        verdict = guarded.last_record.verdict
        if not verdict.committed:
            print(f"sample {index}: {verdict.reason}")
    if index % 1000 == 999:
        print(", ".join(f"{name}: {accuracy.get():.3f}" for name, accuracy in accuracies.items()))
        accuracies = {name: metrics.Accuracy() for name in accuracies}

print({name: count for name, count in guarded.counters.items() if count})
