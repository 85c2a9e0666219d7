"""What can be learned of batches that a gate refuses: parts of them, purified images, mended labels, shorter steps.

    python benchmarks/salvage.py --data CIFAR10 [--recipe guard-cifar10] [--seeds 3] [--only NAME ...]
        [--attacks NAME ...] [--threads 1] [--out FILE]
    python benchmarks/salvage.py --show FILE ... [--split test]

The streams of a recipe, its model and its burn-in; every candidate behind the same `probe_gate`, and poison made for
each model as it is. Controls: a frozen model; models that learn as many batches from trusted samples alone, which are
the gate's probe, or a second trusted set of the same size, which `mixup` and `replay` have too, or the burn-in's.
Accuracies are on 1,000 samples of the training images (`monitor`, for choosing; what is printed as it runs) and on
1,000 of the test images (`test`, for the last word). "end" is less the honest stream's without a guard, of the same
seed; "worst" the worst step; "refused" and "salvaged" of 12 steps; "seconds" those of a refused or salvaged step.
"""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import setting
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, one_hot, pad, unfold

from taster import Batch, Guard
from taster.attacks import GuardSimulator
from taster.core.guard import ScreenedBatch
from taster.core.step_record import Phase
from taster.core.view import View
from taster.data import Role, Stream, as_batch
from taster.defences import probe_gate, retry_low_score_half
from taster.defences.corrections.loss_descent import Correction, LossDescent
from taster.defences.salvage.trusted_replay import TrustedReplay
from taster.experiments.recipes.files import read_recipe
from taster.experiments.recipes.schema import Recipe
from taster.experiments.running.tasks import seed_context
from taster.experiments.scenarios.builders import make_attack, make_learner
from taster.experiments.scenarios.burn_in import burn_in
from taster.experiments.scenarios.burn_in_cache import cached_burn_in
from taster.experiments.scenarios.context import BurntIn, SeedContext
from taster.perturbations.pgd import LpBall
from taster.scores.base import split_in_half
from taster.scores.influence import FirstOrderInfluence
from taster.utils.logging import suppress_log_messages
from taster.utils.seeds import generator

HONEST = "honest, no guard"
SPLITS: tuple[Role, ...] = ("monitor", "test")

Change = Callable[[Batch, View], Batch]

ATTACKS = ["random_noise", "label_flip", "greedy"]

RELEVANT = {
    **dict.fromkeys(["blur 1", "median", "2 bits", "jpeg 10", "rescaled", "descent"], ("random_noise", "greedy")),
    **dict.fromkeys(["relabelled", "smoothed labels"], ("label_flip",)),
}
"""The attacks that a candidate can be of use against, where it is not all."""


class Purified:
    """A salvaging screen that changes a whole batch."""

    def __init__(self, name: str, change: Change) -> None:
        self.name, self.change = name, change

    def __call__(self, admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        batch = admitted.batch
        return admitted.correct(self.change(batch, view), torch.ones(len(batch), dtype=torch.bool))


class Chosen:
    """A salvaging screen that keeps some samples: (batch, view) to a mask [n] of those that go."""

    def __init__(self, name: str, bad: Callable[[Batch, View], Tensor], min_samples: int = 16) -> None:
        self.name, self.bad, self.min_samples = name, bad, min_samples

    def __call__(self, admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        bad = self.bad(admitted.batch, view)
        return admitted if int((~bad).sum()) < self.min_samples else admitted.drop(bad, "")


def on_images(change: Callable[[Tensor], Tensor]) -> Change:
    return lambda batch, _: replace(batch, x=change(batch.x).clamp(0, 1))


def gaussian(x: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(2 * sigma))
    line = torch.exp(-(torch.arange(-reach, reach + 1).float() ** 2) / (2 * sigma**2))
    kernel = (line[:, None] * line[None]).div(line.sum() ** 2).expand(x.shape[1], 1, -1, -1)
    return conv2d(pad(x, [reach] * 4, mode="reflect"), kernel, groups=x.shape[1])


def median(x: Tensor, size: int = 3) -> Tensor:
    n, c, h, w = x.shape
    around = unfold(pad(x, [size // 2] * 4, mode="reflect"), size).view(n, c, size * size, h, w)
    return around.median(2).values


def quantized(x: Tensor, bits: int) -> Tensor:
    levels: int = 2**bits - 1
    return (x * levels).round() / levels


LUMINANCE = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
).float()


def jpeg(x: Tensor, quality: int) -> Tensor:
    """The loss of JPEG on each channel: the cosine transform of blocks of 8 × 8, quantized by the luminance table."""
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    table = (LUMINANCE * scale).clamp(min=1) / 255
    k = torch.arange(8).float()
    basis = torch.cos(torch.pi * (2 * k[None] + 1) * k[:, None] / 16) / 2
    basis[0] /= 2**0.5
    h, w = x.shape[2:]
    padded = pad(x - 0.5, [0, -w % 8, 0, -h % 8], mode="replicate")
    blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)
    kept = ((basis @ blocks @ basis.T) / table).round() * table
    back = (basis.T @ kept @ basis).permute(0, 1, 2, 4, 3, 5).reshape(padded.shape)
    return back[:, :, :h, :w] + 0.5


def rescaled(x: Tensor) -> Tensor:
    return interpolate(avg_pool2d(x, 2), size=x.shape[2:], mode="bilinear", align_corners=False)


def relabelled(batch: Batch, view: View) -> Batch:
    with torch.no_grad():
        return replace(batch, y=view.forward(batch.x).argmax(1))


def bootstrapped(batch: Batch, view: View, keep: float = 0.5) -> Batch:
    """Reed et al. 2015, soft: the label and the model's own probabilities."""
    with torch.no_grad():
        own = view.forward(batch.x).softmax(1)
    return replace(batch, y=keep * one_hot(batch.y, own.shape[1]) + (1 - keep) * own)


def smoothed(batch: Batch, view: View, by: float = 0.5) -> Batch:
    with torch.no_grad():
        classes = view.forward(batch.x[:2]).shape[1]
    return replace(batch, y=(1 - by) * one_hot(batch.y, classes) + by / classes)


def mixup(trusted: Batch, share: float) -> Change:
    """The batch with trusted samples: `share` of them in each sample and label, drawn by step."""

    def change(batch: Batch, view: View) -> Batch:
        drawn = torch.randint(len(trusted), (len(batch),), generator=torch.Generator().manual_seed(view.step))
        with torch.no_grad():
            classes = view.forward(batch.x[:2]).shape[1]
        x = (1 - share) * batch.x + share * trusted.x[drawn]
        return replace(
            batch, x=x, y=(1 - share) * one_hot(batch.y, classes) + share * one_hot(trusted.y[drawn], classes)
        )

    return change


def shorter(factor: float) -> Purified:
    return Purified(f"step × {factor}", lambda batch, _: replace(batch, loss_weight=factor * batch.loss_weight))


def descent(epsilon: float) -> Correction:
    return Correction(f"descent {epsilon}", LossDescent(LpBall("linf", epsilon), 10, epsilon / 5))


BLUR = Purified("blur 1", on_images(lambda x: gaussian(x, 1.0)))


def candidates(probe: Batch, trusted: Batch, burnt: Batch) -> dict[str, list[Any]]:
    """What is tried of a refused batch, in order, by name."""
    (half,) = retry_low_score_half(probe).salvage
    influence = FirstOrderInfluence(probe.select(slice(256)))
    influence_bad = Chosen("agreeing", lambda batch, view: influence(batch, view) >= 0)
    return {
        "nothing": [],
        "half": [half],
        "agreeing": [influence_bad],
        "shorter": [shorter(0.5), shorter(0.25), shorter(0.125)],
        "blur 1": [BLUR],
        "median": [Purified("median", on_images(median))],
        "2 bits": [Purified("2 bits", on_images(lambda x: quantized(x, 2)))],
        "jpeg 10": [Purified("jpeg 10", on_images(lambda x: jpeg(x, 10)))],
        "rescaled": [Purified("rescaled", on_images(rescaled))],
        "descent": [descent(0.2)],
        "relabelled": [Purified("relabelled", relabelled)],
        "bootstrapped": [Purified("bootstrapped", bootstrapped)],
        "smoothed labels": [Purified("smoothed labels", smoothed)],
        "mixup": [Purified("mixup", mixup(trusted, 0.5))],
        "replay": [TrustedReplay(trusted)],
        "replay of the burn-in": [TrustedReplay(burnt)],
        "half, replay of the burn-in": [half, TrustedReplay(burnt)],
        "half, blur 1": [half, BLUR],
    }


def attack_batches(
    context: SeedContext, burnt_in: BurntIn, label: str, guard: Guard
) -> tuple[Any, GuardSimulator | None]:
    entry = next(entry for entry in context.recipe.attack if entry.label == label)
    simulator = None
    if "simulator" in context.recipe.factory("attack", entry).needs:
        _, held_out = split_in_half(context.batches["validation"])
        simulator = GuardSimulator(make_learner(context, burnt_in, guard), held_out)
    return make_attack(context, entry, {}, simulator), simulator


def clean_stream(context: SeedContext) -> Iterator[tuple[Batch, Phase]]:
    stream = Stream(context.images("stream"), 100, generator(context.seed, "stream"))
    for _ in range(context.recipe.schedule.steps):
        yield stream.draw(), Phase.ACCUMULATE
    yield context.batches["trigger"], Phase.TRIGGER


def run(
    context: SeedContext, burnt_in: BurntIn, label: str, guards: tuple[Guard, Guard], instead: list[Batch] | None = None
) -> dict[str, Any]:
    """One stream; of the guards the attacker knows the second. `instead` are batches that are learned in the place of
    those of the stream."""
    learner = make_learner(context, burnt_in, guards[0])
    attack, simulator = attack_batches(context, burnt_in, label, guards[1])
    accuracies = {split: [accuracy(context, split, learner.view())] for split in SPLITS}
    counts, seconds, last = {"refused": 0, "salvaged": 0}, [], None
    for step, (clean, phase) in enumerate(clean_stream(context)):
        if instead is None:
            if simulator is not None:
                simulator.sync(learner, last)
            batch = attack.poison(clean, learner.view(), phase)
        else:
            batch = instead[step]
        last = learner.step(batch)
        learned = last.verdict.committed
        counts["refused"] += not learned
        counts["salvaged"] += learned and last.attempts > 1
        if last.attempts > 1 or not learned:
            seconds.append(last.seconds["total"])
        for split, so_far in accuracies.items():
            so_far.append(accuracy(context, split, learner.view()) if learned else so_far[-1])
    found: dict[str, Any] = {**counts, "seconds": round(statistics.mean(seconds), 3) if seconds else None}
    for split, course in accuracies.items():
        worst = min(after - before for before, after in pairwise(course))
        found[split] = {"start": course[0], "end": course[-1], "worst": round(worst, 2)}
    return found


def accuracy(context: SeedContext, split: Role, view: View) -> float:
    judge = context.batches[split]
    return round(view.accuracy(judge.x, judge.y), 2)


def the_recipe(options: dict[str, Any]) -> Recipe:
    sets = [f"data.source={options['data']}", "split.monitor=1000", "split.test=1000"]
    found = read_recipe(options["recipe"], sets)
    flip = next(entry for entry in found.attack if entry.label == "label_flip")
    half = flip.model_copy(update={"label": "label_flip, 50 %", "poison_fraction": 0.5})
    return found.model_copy(update={"attack": [*found.attack, half]})


def one_seed(recipe: Recipe, seed: int, attacks: list[str], only: list[str] | None) -> Iterator[dict[str, Any]]:
    """The rows of a seed, controls first."""
    context = seed_context(recipe, seed)
    start = cached_burn_in(context, lambda: burn_in(context))
    stream, probe = context.roles["stream"], context.batches["probe"]
    trusted, burnt = as_batch(stream.select(torch.arange(len(probe)))), as_batch(context.roles["burn_in"])
    left = stream.select(torch.arange(len(probe), len(stream)))
    context = replace(context, roles={**context.roles, "stream": left})
    known, _ = split_in_half(context.batches["validation"])

    def guard(name: str, samples: Batch) -> Guard:
        with suppress_log_messages("taster.defences.gates.probe_gate"):
            gate = probe_gate(samples, max_rewind=8)
        return gate + Guard(salvage=candidates(samples, trusted, burnt)[name])

    def row(attack: str, name: str, guards: tuple[Guard, Guard], instead: list[Batch] | None = None) -> dict[str, Any]:
        with suppress_log_messages("taster.core.learner"):
            found = run(context, copy.deepcopy(start), attack, guards, instead)
        return {"seed": seed, "attack": attack, "salvage": name, **found}

    empty = Guard(), Guard()
    yield row("none", HONEST, empty)
    for name, own in {"probe alone": probe, "trusted set alone": trusted, "burn-in alone": burnt}.items():
        order = generator(seed, name)
        draws = [torch.randperm(len(own), generator=order)[:100] for _ in range(recipe.schedule.steps + 1)]
        yield row("none", name, empty, [own.select(draw) for draw in draws])
    for attack in attacks:
        for name in only or candidates(probe, trusted, burnt):
            if attack in RELEVANT.get(name, (attack,)):
                yield row(attack, name, (guard(name, probe), guard(name, known)))


def main() -> None:
    parser = setting.parser(__doc__)
    parser.add_argument("--recipe", default="guard-cifar10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", nargs="*", help="candidates; all without it")
    parser.add_argument("--attacks", nargs="*", default=ATTACKS)
    parser.add_argument("--show", nargs="*", help="files whose rows are shown, in the place of new ones")
    parser.add_argument("--split", choices=SPLITS, default="monitor")
    options = setting.begin(parser)
    if options["show"]:
        print(table([row for file in options["show"] for row in json.loads(Path(file).read_text())["rows"]], options))
        return
    recipe, rows = the_recipe(options), []
    options |= {"model": recipe.model.name, "settings": json.dumps(recipe.model.settings)}
    for seed in range(options["first"], options["first"] + options["seeds"]):
        for row in one_seed(recipe, seed, options["attacks"], options["only"]):
            rows.append(row)
            told = (row[key] for key in ("seed", "attack", "salvage", "refused", "salvaged", "monitor"))
            print(*told, sep=" | ", flush=True)
            setting.write(options, recipe=options["recipe"], rows=rows)
    print(table(rows, options))


def table(rows: list[dict[str, Any]], options: dict[str, Any]) -> str:
    split = options["split"]
    honest = {row["seed"]: row[split] for row in rows if row["salvage"] == HONEST}
    gains = [value["end"] - value["start"] for value in honest.values()]
    frozen = spread([-gain for gain in gains])
    lines = [
        f"On {split}: the honest stream gains {spread(gains)} points, behind which a frozen model ends {frozen}",
        "| attack | salvage | seeds | end | worst | refused | salvaged | seconds |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for attack, name in dict.fromkeys((row["attack"], row["salvage"]) for row in rows):
        own = [row for row in rows if (row["attack"], row["salvage"]) == (attack, name)]
        ends = [row[split]["end"] - honest[row["seed"]]["end"] for row in own]
        counted = [f"{statistics.mean(row[key] for row in own):.1f}" for key in ("refused", "salvaged")]
        times = [row["seconds"] for row in own if row["seconds"] is not None]
        shown = [spread(ends), spread([row[split]["worst"] for row in own]), *counted]
        seconds = f"{statistics.mean(times):.2f}" if times else "–"
        lines.append(f"| {attack} | {name} | {len(own)} | {' | '.join(shown)} | {seconds} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):+.1f}{deviation}".replace("-", "−")


if __name__ == "__main__":
    main()
