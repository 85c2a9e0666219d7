"""The loss alarm over many single injections: what it rests on, its false alarms and detections, and its curve.

    python benchmarks/alarm.py yang-fig-5 --data MNIST [--seeds 3] [--injections 100] [--out FILE] [--plot FILE]

From a burnt-in model, one sample at a time is injected into a fresh copy of it (Yang et al. 2017, Fig. 5): normal ones
under their own label, normal ones and noise under wrong labels, poison of the direct gradient method (exact, group 100)
and of the generative one (unrolled). Of each three numbers are taken: its loss before the update, its Memorization
Discrepancy from the first epoch, and how far the mean probability of the true class falls on the probe by the update,
which is what the probe gate goes by. Then whole guards with thresholds estimated on clean data are asked: the loss
alarm (W_th = 0) and the probe gate. Poison counts as detected where its update is refused.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from pathlib import Path
from typing import Any

import matplotlib
import torch
from setting import spread
from sklearn.metrics import roc_auc_score, roc_curve

from taster import Batch, Learner, Phase
from taster.attacks import InjectionSettings, OnlineAttack, direct_gradient, generative
from taster.attacks.online.no_attack import none
from taster.data import as_batch
from taster.data.stream import Sampler
from taster.experiments import read_recipe
from taster.experiments.recipes.schema import Defence
from taster.experiments.running.tasks import seed_context
from taster.experiments.scenarios.builders import make_guard, make_learner, stream_learning_rate
from taster.experiments.scenarios.burn_in import burn_in
from taster.experiments.scenarios.burn_in_cache import cached_burn_in
from taster.scores.memorization_discrepancy import MemorizationDiscrepancy
from taster.utils.seeds import generator

matplotlib.use("Agg")
from matplotlib import pyplot as plt

GUARDS: dict[str, dict[str, Any]] = {
    "loss_alarm": {"max_warnings": 0, "on_alarm": "continue"},
    "probe_gate": {},
}
SCORES = {"loss": "loss", "discrepancy": "Memorization Discrepancy", "fall": "probe gate: fall of p(true class)"}
POISON = ("wrong label", "noise, wrong label", "direct", "generative, unrolled")


def injector(kind: str, sampler: Sampler, rate: float, draws: torch.Generator) -> OnlineAttack:
    """What makes injections of a kind of one seed."""
    if kind == "normal":
        return none()
    if kind == "generative, unrolled":
        return generative(sampler, draws, rate, policy="unrolled", injection=InjectionSettings(iterations=30))
    injection = {"direct": InjectionSettings(), "wrong label": InjectionSettings(iterations=0)}.get(
        kind, InjectionSettings(iterations=0, init="uniform")
    )
    return direct_gradient(sampler, draws, rate, injection=injection)


def fall(learner: Learner, batch: Batch, probe: Batch) -> float:
    """Of the mean probability of the true class on the probe by one update, in points; undone again."""

    def mean() -> float:
        with torch.no_grad():
            return float(learner.view().forward(probe.x).softmax(1).gather(1, probe.y[:, None]).mean())

    before, kept = mean(), {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.step(batch)
    after = mean()
    learner.model.load_state_dict(kept)
    return 100 * (before - after)


def refused(parts: dict[str, Any], name: str, batches: list[Batch]) -> float:
    """Share of injections that a guard refuses, each into the model as it was burnt in, in %."""
    entry, count = Defence(name=name, label=name, **GUARDS[name]), 0
    learner = make_learner(parts["context"], parts["state"], make_guard(parts["context"], entry, parts["probe"]))
    kept = {key: value.clone() for key, value in learner.model.state_dict().items()}
    first = parts["normal"]
    learner.step(first)  # what the guard starts from
    learner.model.load_state_dict(kept)
    state = learner.guard.state_dict()
    for batch in batches:
        learner.guard.load_state_dict(state)
        count += not learner.step(batch).verdict.committed
        learner.model.load_state_dict(kept)
    return 100.0 * count / len(batches)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(1, 1 + len(POISON), figsize=(3.0 * (1 + len(POISON)), 2.8), layout="constrained")
    for kind in ("normal", *POISON):
        losses = sorted(value for row in rows if row["kind"] == kind for value in row["loss"])
        axes[0].plot(range(len(losses)), losses, label=kind)
    axes[0].set(title="loss of what is injected, in order", ylabel="loss", yscale="symlog", xlabel="injection")
    axes[0].legend(frameon=False, fontsize=6)
    for axis, kind in zip(axes[1:], POISON, strict=True):
        for score, name in SCORES.items():
            normal, poison = (
                [value for row in rows if row["kind"] == one for value in row[score]] for one in ("normal", kind)
            )
            false, true, _ = roc_curve([0] * len(normal) + [1] * len(poison), normal + poison)
            axis.plot(100 * false, 100 * true, label=name)
        axis.set(title=kind, xlabel="false alarms, %", ylabel="detected, %")
    axes[-1].legend(frameon=False, fontsize=6, loc="lower right")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="whose data, model and burn-in to take; keeps epoch 1")
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--injections", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    logging.getLogger("taster.core.learner").setLevel(logging.ERROR)  # refusals are counted here
    torch.set_num_threads(1)
    recipe = read_recipe(options.recipe, [f"data.source={options.data}"]).with_compute(device="cpu", threads=1)
    rate = stream_learning_rate(recipe)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        context = seed_context(recipe, seed)
        roles = context.roles
        state = cached_burn_in(context, lambda: burn_in(context))  # noqa: B023 (called at once)
        probe, stream = as_batch(roles["probe"]), as_batch(roles["stream"].select(torch.arange(options.injections + 1)))
        parts = {"context": context, "state": state, "probe": probe}
        parts["normal"] = stream.select(slice(options.injections, options.injections + 1))
        learner = make_learner(context, state, make_guard(context, Defence(name="none", label="none"), probe))
        sampler, draws = Sampler(roles["validation"], generator(seed, "validation")), generator(seed, "attack")
        score = MemorizationDiscrepancy("epoch-1")
        for kind in ("normal", *POISON):
            view, campaign = learner.view(), injector(kind, sampler, rate, draws)
            samples = [stream.select(slice(i, i + 1)) for i in range(options.injections)]
            batches = [campaign.poison(sample, view, Phase.TRIGGER) for sample in samples]
            row: dict[str, Any] = {"seed": seed, "kind": kind}
            row["loss"] = [float(view.loss(batch.x, batch.y).detach()) for batch in batches]
            row["discrepancy"] = [float(score(batch, view)) for batch in batches]
            row["refused"] = {name: refused(parts, name, batches) for name in GUARDS}
            row["fall"] = [fall(learner, batch, probe) for batch in batches]
            rows.append(row)
            print(seed, kind, f"loss {statistics.mean(row['loss']):.2f}", row["refused"], flush=True)
    tell(rows)
    if options.out:
        about = {"recipe": recipe.name, "injections": options.injections, "torch": torch.__version__}
        options.out.write_text(json.dumps({**about, "rows": [rounded(row) for row in rows]}) + "\n")
    if options.plot:
        plot(rows, options.plot)


def tell(rows: list[dict[str, Any]]) -> None:
    heads = ["injected", "loss: least, median, greatest", "AUC: loss", "discrepancy", "probe gate's fall"]
    heads += [f"refused: {name}" for name in GUARDS]
    print("\n| " + " | ".join(heads) + " |\n|---|" + "---:|" * (len(heads) - 1))
    for kind in ("normal", *POISON):
        own = [row for row in rows if row["kind"] == kind]
        losses = [value for row in own for value in row["loss"]]
        cells = [kind, f"{min(losses):.3f}, {statistics.median(losses):.3f}, {max(losses):.2f}"]
        for score in SCORES:
            areas = [area(rows, row, score) for row in own]
            cells.append("" if kind == "normal" else spread(areas))
        cells += [spread([row["refused"][name] for row in own]) for name in GUARDS]
        print("| " + " | ".join(cells) + " |")


def area(rows: list[dict[str, Any]], row: dict[str, Any], score: str) -> float:
    """Under the ROC curve between the same seed's normal samples and these, in %."""
    normal = next(one[score] for one in rows if one["kind"] == "normal" and one["seed"] == row["seed"])
    return 100 * float(roc_auc_score([0] * len(normal) + [1] * len(row[score]), [*normal, *row[score]]))


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: [round(v, 5) for v in value] if isinstance(value, list) else value for key, value in row.items()}


if __name__ == "__main__":
    main()
