"""What a guard costs honest streams: a stationary one, and worlds that change.

    python benchmarks/drift.py --data MNIST [--model small_cnn] [--settings '{"grid": 4}'] [--seeds 5] [--steps 300]
        [--lag 10] [--rate 0.005] [--out FILE]

A model is burnt in on a first part of the training images and goes on learning from honest batches of 100, with no
guard and with each guard, on the same batches:

    stationary   the same as before
    classes      it has seen half of the classes; the others come one after the other
    rotation     images turn, by 60 degrees at the end
    corruption   from a third of the way on, images are noisy

Every `--lag` steps the owner renews the probe (512 samples) with samples of the world as it was that many steps ago.
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
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

import taster
from taster import Batch, Guard, Learner
from taster.data import as_batch, load_images
from taster.defences import probe_gate
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
    "rotation": rotation,
    "corruption": corruption,
}

GUARDS: dict[str, Callable[[Batch], Guard]] = {
    "none": lambda _: Guard(),
    "probe_gate": lambda probe: probe_gate(probe),
    "guard": lambda probe: taster.guard(probe),
    "guard, every 4": lambda probe: taster.guard(probe, check_every=4),
    "probe_gate, every 10, mean alone": lambda probe: probe_gate(
        probe, check_every=10, check_on_loss_outlier=False, class_tolerance=None
    ),
}


def known(world: str, y: Tensor, over: float) -> Tensor:
    """Which samples there are by then: of half the classes at first, of all from three quarters on."""
    if world != "classes":
        return torch.ones_like(y, dtype=torch.bool)
    return y < 5 + min(5, math.floor(5 * over / 0.75) + (1 if over > 0 else 0))


class Source:
    """Samples in a fixed order, those that there are at a time."""

    def __init__(self, samples: Batch, world: str) -> None:
        self.samples, self.world, self.at = samples, world, 0

    def draw(self, count: int, over: float) -> Batch:
        there = known(self.world, self.samples.y, over).nonzero().squeeze(1)
        index = there[torch.arange(self.at, self.at + count) % len(there)]
        self.at += count
        return WORLDS[self.world](self.samples.select(index), over)


def burnt_in(options: dict[str, Any], samples: Batch, shape: tuple[int, ...], classes: int, seed: int) -> Learner:
    torch.manual_seed(seed)
    model = MODELS[options["model"]](shape, classes, **json.loads(options["settings"]))  # type: ignore[arg-type]
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner = Learner(model, torch.optim.SGD(model.parameters(), options["rate"], 0.9), cross_entropy)
    for _ in range(options["epochs"]):
        for part in torch.split(torch.randperm(len(samples)), SIZE):
            if len(part) > 1:
                learner.step(samples.select(part))
    return learner


def run(
    options: dict[str, Any], world: str, guard: str, start: dict[str, Any], parts: dict[str, Batch], fresh: Learner
) -> dict[str, float]:
    """One stream, from the burnt-in state to its end."""
    sources = {name: Source(samples, world) for name, samples in parts.items() if name in ("stream", "probe")}
    probe = sources["probe"].draw(PROBE, 0.0)
    made = GUARDS[guard](probe)
    learner = Learner(fresh.model, fresh.optimizer, cross_entropy, made)
    learner.load_state_dict({**start, "guard": made.state_dict(), "history": None, "steps": 0})
    last = WORLDS[world](parts["test"], 1.0)
    began = learner.view().accuracy(last.x, last.y)
    refused, ended = 0, []
    for step in range(options["steps"]):
        if step and step % options["lag"] == 0 and guard != "none":
            sources["probe"].at = 0
            made.set_trusted_data(sources["probe"].draw(PROBE, (step - options["lag"]) / options["steps"]))
        record = learner.step(sources["stream"].draw(SIZE, (step + 1) / options["steps"]))
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
            seen = first.select(known(world, first.y, 0.0))
            learner = burnt_in(options, seen, images.shape, images.classes, seed)
            start = learner.state_dict()
            start = {**start, "model": {name: value.clone() for name, value in start["model"].items()}}
            start["optimizers"] = copy.deepcopy(start["optimizers"])
            for guard in GUARDS:
                found.setdefault((world, guard), []).append(run(options, world, guard, start, parts, learner))
        print(f"seed {seed} done", flush=True)
    rows = []
    print("\n| stream | guard | start | end | gain | kept, % | refused, % |\n|---|---|---:|---:|---:|---:|---:|")
    for (world, guard), runs in found.items():
        gains = [r["end"] - r["start"] for r in runs]
        plain = [r["end"] - r["start"] for r in found[world, "none"]]
        kept = 100 * statistics.mean(gains) / statistics.mean(plain) if world != "stationary" else None
        rows.append({"stream": world, "guard": guard, "runs": runs, "kept": kept})
        began, end, gain, refused = (
            f"{statistics.mean(v):.1f} ± {statistics.stdev(v) if len(v) > 1 else 0:.1f}"
            for v in ([r["start"] for r in runs], [r["end"] for r in runs], gains, [r["refused"] for r in runs])
        )
        print(
            f"| {world} | {guard} | {began} | {end} | {gain} | {'–' if kept is None else f'{kept:.0f}'} | {refused} |"
        )
    setting.write(options, probe=PROBE, burn_in=BURN_IN, rows=rows)


if __name__ == "__main__":
    main()
