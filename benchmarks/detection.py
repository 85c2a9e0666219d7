"""How well poison can be told from clean samples: the area under the ROC curve of every score, over ε.

    python benchmarks/detection.py --checkpoint FILE --earlier FILE --data CIFAR10 [--strange MNIST] [--out FILE]
        [--plot FILE.svg]

Scores: the four detectors of Pang et al. 2021 (Fig. 2), fitted to clean training images, on what goes into the last
linear layer; Memorization Discrepancy (Zhu et al. 2023, Figs. 4 and 5) against the earlier weights. Samples, 100 a
seed: random ±ε noise, the vanilla trigger and the first accumulative batch (C = 10, per-tensor cosines), and, where
given, images of another data set. Each is set against the same clean images before they were changed (another data
set's against all of these): 50 % is no better than chance.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import setting
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import pad

from taster import Batch, Phase, View
from taster.attacks import CraftingSettings, PerturbationSettings, accumulative, random_noise, vanilla_trigger
from taster.data import as_batch, load_images
from taster.derivatives import Derivatives, DiffMethod
from taster.scores.base import Score
from taster.scores.feature_detectors import DETECTORS, FeatureAnomalyScore
from taster.scores.memorization_discrepancy import MemorizationDiscrepancy

EPSILONS = {"4/255": 4 / 255, "8/255": 8 / 255, "16/255": 16 / 255, "0.1": 0.1}
SIZE, FITTED, STEPS = 100, 5000, 10


def make_scores(clean: Batch, view: View) -> dict[str, Score]:
    """Detectors fitted once, at the view."""
    scores: dict[str, Score] = {}
    for kind in DETECTORS:
        detector = FeatureAnomalyScore(kind, clean)
        detector.fit(view)
        scores[kind] = detector
    return {**scores, **{f"discrepancy, {kind}": MemorizationDiscrepancy("earlier", kind) for kind in ("kl", "js")}}


def poisoned(name: str, epsilon: float, batches: list[Batch], view: View, seed: int) -> Batch:
    clean, validation, trigger = batches
    generator = torch.Generator().manual_seed(seed)
    derivatives = Derivatives(DiffMethod.parse("finite_difference bfloat16 channels_last"))
    if name == "random noise":
        return random_noise(generator, perturbation=PerturbationSettings(epsilon=epsilon)).poison(
            clean, view, Phase.TRIGGER
        )
    crafting = CraftingSettings(epsilon=epsilon, pgd_steps=STEPS, normalize_poisoned=True)
    if name == "vanilla":
        campaign = vanilla_trigger(lambda _: validation, generator, derivatives, crafting=crafting)
        return campaign.poison(clean, view, Phase.TRIGGER)
    campaign = accumulative(trigger, lambda _: validation, generator, derivatives, crafting=crafting)
    return campaign.poison(clean, view, Phase.ACCUMULATE)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    names = list(dict.fromkeys(row["score"] for row in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(2.4 * len(names), 2.6), sharey=True, layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        for samples in ("random noise", "vanilla", "accumulative"):
            own = [row for row in rows if row["score"] == name and row["samples"] == samples]
            values = [100 * statistics.mean(row["auc"]) for row in own]
            axis.plot([EPSILONS[row["epsilon"]] for row in own], values, "o-", ms=3, label=samples)
        axis.axhline(50, color="0.7", lw=0.8, zorder=0)
        axis.set(title=name, xlabel="ε", ylim=(0, 102))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("area under ROC, %")
    axes[-1].legend(frameon=False, fontsize=7, loc="lower right")
    figure.savefig(path)


def main() -> None:
    parser = setting.parser(__doc__)
    parser.add_argument("--earlier", required=True, help="weights of the same model at an earlier epoch")
    parser.add_argument("--strange", help="another data set, of 28x28 grey images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    options = setting.begin(parser)
    images = load_images(options["data"])
    assert images.train is not None
    assert images.test is not None
    view = setting.make_learner(options, images.shape, images.classes).view()
    scores = make_scores(as_batch(images.train.select(torch.arange(FITTED))), view)
    found: dict[tuple[str, str, str], list[float]] = {}

    def measure(samples: str, epsilon: str, clean: Batch, other: Batch) -> None:
        truth = [0] * len(clean) + [1] * len(other)
        for name, score in scores.items():
            values = torch.cat([score(clean, view), score(other, view)]).nan_to_num(posinf=3e38)
            found.setdefault((name, samples, epsilon), []).append(float(roc_auc_score(truth, values)))

    for seed in range(options["seeds"]):
        # Not of the images that detectors were fitted to, and unseen by the model
        order = torch.randperm(len(images.test), generator=torch.Generator().manual_seed(seed))
        batches = [as_batch(images.test.select(order[i * SIZE : (i + 1) * SIZE])) for i in range(3)]
        for epsilon, value in EPSILONS.items():
            for samples in ("random noise", "vanilla", "accumulative"):
                measure(samples, epsilon, batches[0], poisoned(samples, value, batches, view, seed))
        if options["strange"]:
            others = load_images(options["strange"]).test
            assert others is not None
            strange = as_batch(others.select(torch.arange(seed * SIZE, (seed + 1) * SIZE)))
            wide = pad(strange.x, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
            measure("another data set", "", batches[0], Batch(wide, strange.y))
        print(f"seed {seed} done", flush=True)
    rows: list[dict[str, Any]] = [
        {"score": name, "samples": s, "epsilon": e, "auc": auc} for (name, s, e), auc in found.items()
    ]
    print("\n| score | samples | ε | area under ROC, % |\n|---|---|---|---:|")
    for row in rows:
        spread = statistics.stdev(row["auc"]) if len(row["auc"]) > 1 else 0.0
        mean = 100 * statistics.mean(row["auc"])
        print(f"| {row['score']} | {row['samples']} | {row['epsilon']} | {mean:.1f} ± {100 * spread:.1f} |")
    setting.write(options, batch=SIZE, fitted=FITTED, steps=STEPS, rows=rows)
    if options["plot"]:
        plot(rows, options["plot"])


if __name__ == "__main__":
    main()
