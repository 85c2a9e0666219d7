"""What a guard costs honest streams: a stationary one, and worlds that change.

    python benchmarks/drift.py --data MNIST [--model small_cnn] [--settings '{"grid": 4}'] [--seeds 5] [--steps 300]
        [--lag 10] [--rate 0.005] [--out FILE]

A model is burnt in on a first part of the training images and goes on learning from honest batches of 100, with no
guard and with each guard, on the same batches:

    stationary   the same as before
    classes      it has seen half of the classes; the others come one after the other
    head         the same, with a head that grows by one output for each
    rotation     images turn, by 60 degrees at the end
    corruption   from a third of the way on, images are noisy

Every `--lag` steps the owner renews the probe (512 samples) with samples of the world as it was that many steps ago,
and, with one of the world as it is, when he grows the head.
"gain" is the accuracy in the last world, at the end less at the start, in points; "kept" what share of the gain without
a guard the guard leaves. Accuracies are means over the last 20 steps, on 2,000 test images; refused is of all batches.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
from collections.abc import Callable
from typing import Any

import setting
import torch
from torch import nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

import taster
from taster import Batch, Guard, Learner
from taster.data import as_batch, load_images
from taster.models import MODELS

SIZE, PROBE, BURN_IN, TEST, LAST = 100, 512, 10000, 2000, 20

World = Callable[[Batch, float], Batch]
"""How samples look when so much of the stream (0 to 1) is over."""


def rotation(batch: Batch, over: float) -> Batch:
    angle = math.radians(60 * over)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
    grid = affine_grid(turn.expand(len(batch), 2, 3), list(batch.x.shape), align_corners=False)
    return Batch(grid_sample(batch.x, grid, align_corners=False).clamp(0, 1), batch.y)


def corruption(batch: Batch, over: float) -> Batch:
    if over < 1 / 3:
        return batch
    # A pattern for each place in a batch, the same all through: the world changes once and stays so.
    noise = torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(len(batch)))
    return Batch((batch.x + 0.35 * noise).clamp(0, 1), batch.y)


WORLDS: dict[str, World] = {
    "stationary": lambda batch, _: batch,
    "classes": lambda batch, _: batch,
    "head": lambda batch, _: batch,
    "rotation": rotation,
    "corruption": corruption,
}

GUARDS: dict[str, Callable[[Batch, int], Guard]] = {
    "none": lambda probe, seed: Guard(),  # noqa: ARG005
    "guard": lambda probe, seed: taster.guard(probe, seed=seed),
    "guard, every 4": lambda probe, seed: taster.guard(probe, check_every=4, seed=seed),
}


def classes_by(world: str, over: float) -> int:
    """How many classes there are by then: half of them at first, all from three quarters on."""
    return 10 if world not in ("classes", "head") else 5 + min(5, math.floor(5 * over / 0.75) + (1 if over > 0 else 0))


class Source:
    """Samples in a fixed order, those that there are at a time."""

    def __init__(self, samples: Batch, world: str) -> None:
        self.samples, self.world, self.at = samples, world, 0

    def draw(self, count: int, over: float) -> Batch:
        there = (self.samples.y < classes_by(self.world, over)).nonzero().squeeze(1)
        index = there[torch.arange(self.at, self.at + count) % len(there)]
        self.at += count
        return WORLDS[self.world](self.samples.select(index), over)


def grown(model: nn.Module, classes: int) -> nn.Module:
    """With a last layer of so many outputs, the old ones as they are."""
    name, old = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)][-1]
    new = nn.Linear(old.in_features, classes)
    with torch.no_grad():
        new.weight[: len(old.weight)], new.bias[: len(old.bias)] = old.weight[:classes], old.bias[:classes]
    model.set_submodule(name, new)
    return model


def burnt_in(options: dict[str, Any], world: str, samples: Batch, shape: tuple[int, ...], seed: int) -> Learner:
    torch.manual_seed(seed)
    classes = classes_by("" if world == "classes" else world, 0.0)
    model = MODELS[options["model"]](shape, classes, **json.loads(options["settings"]))  # type: ignore[arg-type]
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner = Learner(model, sgd(options, model), cross_entropy)
    for _ in range(options["epochs"]):
        for part in torch.split(torch.randperm(len(samples)), SIZE):
            if len(part) > 1:
                learner.step(samples.select(part))
    return learner


def sgd(options: dict[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), options["rate"], 0.9)


def run(
    options: dict[str, Any], world: str, guard: str, first: Learner, parts: dict[str, Batch], seed: int
) -> dict[str, float]:
    """One stream, from the burnt-in state to its end."""
    torch.manual_seed(seed)
    sources = {name: Source(samples, world) for name, samples in parts.items() if name in ("stream", "probe")}
    made = GUARDS[guard](sources["probe"].draw(PROBE, 0.0), seed)
    model = copy.deepcopy(first.model)
    optimizer = sgd(options, model)
    optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    learner = Learner(model, optimizer, cross_entropy, made)
    last = WORLDS[world](parts["test"], 1.0)
    began, outputs = learner.view().accuracy(last.x, last.y), classes_by(world, 0.0)
    refused, ended = 0, []
    for step in range(options["steps"]):
        over = (step + 1) / options["steps"]
        renewed = (step - options["lag"]) / options["steps"] if step and step % options["lag"] == 0 else None
        if world == "head" and classes_by(world, over) > outputs:
            outputs = classes_by(world, over)
            grown(model, outputs)
            renewed = over
        if renewed is not None and guard != "none":
            sources["probe"].at = 0
            made.set_trusted_data(sources["probe"].draw(PROBE, renewed))
        if renewed == over:
            learner.rebuild(optimizer=sgd(options, model))
        record = learner.step(sources["stream"].draw(SIZE, over))
        refused += not record.verdict.committed
        if step >= options["steps"] - LAST:
            ended.append(learner.view().accuracy(last.x, last.y))
    return {"start": began, "end": statistics.mean(ended), "refused": 100 * refused / options["steps"]}


def main() -> None:
    parser = setting.parser(__doc__)
    parser.set_defaults(model="small_cnn", settings='{"grid": 4}')
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lag", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.005)
    parser.add_argument("--epochs", type=int, default=6)
    options = setting.begin(parser)
    images = load_images(options["data"])
    assert images.train is not None
    assert images.test is not None
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in range(options["seeds"]):
        order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(seed))
        cuts = order[:BURN_IN], order[BURN_IN : BURN_IN + 4 * PROBE], order[BURN_IN + 4 * PROBE :]
        first, probe, stream = (as_batch(images.train.select(cut)) for cut in cuts)
        parts = {"probe": probe, "stream": stream, "test": as_batch(images.test.select(torch.arange(TEST)))}
        for world in WORLDS:
            seen = first.select(first.y < classes_by(world, 0.0))
            learner = burnt_in(options, world, seen, images.shape, seed)
            for guard in GUARDS:
                found.setdefault((world, guard), []).append(run(options, world, guard, learner, parts, seed))
        print(f"seed {seed} done", flush=True)
    rows = []
    print("\n| stream | guard | start | end | gain | kept, % | refused, % |\n|---|---|---:|---:|---:|---:|---:|")
    for (world, guard), runs in found.items():
        gains = [r["end"] - r["start"] for r in runs]
        plain = [r["end"] - r["start"] for r in found[world, "none"]]
        kept = 100 * statistics.mean(gains) / statistics.mean(plain) if world != "stationary" else None
        rows.append({"stream": world, "guard": guard, "runs": runs, "kept": kept})
        began, end, gain, refused = (
            setting.spread(v)
            for v in ([r["start"] for r in runs], [r["end"] for r in runs], gains, [r["refused"] for r in runs])
        )
        print(
            f"| {world} | {guard} | {began} | {end} | {gain} | {'–' if kept is None else f'{kept:.0f}'} | {refused} |"
        )
    setting.write(options, probe=PROBE, burn_in=BURN_IN, rows=rows)


if __name__ == "__main__":
    main()
