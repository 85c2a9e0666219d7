"""What the default guard does with a probe that is not what it should be.

    python benchmarks/probe_quality.py --data MNIST [--model mlp] [--settings '{"hidden": [64]}'] [--seeds 3]
        [--part both] [--steps 90] [--age-steps 240] [--out FILE]

A model is burnt in on 6,000 images and goes on learning batches of 100, all honest or with every sixth of flipped
labels, y → y + 1 modulo 10, behind `taster.guard(probe)`. The probes, of 1,000 samples where nothing else is said:

    clean                          as drawn
    1 %, 5 % wrong                 labels replaced by another at random
    5 % poisoned                   samples of class 3, half of them all, labelled 4, as the attack does
    100, 250, 5,000 samples        clean
    rotated by 20°, noisy          of a world that was

"caught": of the poisoned batches, those that were refused, whole or in part; "cost": of the honest ones, in the honest
stream and in the attacked one; "end": accuracy less that without guard and attack, in points, mean of the last 20
steps; "worst step": the largest drop of accuracy in one step of the attacked stream; "anchor": steps of the honest one
at which the gate said that the model drifts. "found": what `taster.probe.check` says of the labels: how many of the
wrong ones it lists, and how many of those it lists are wrong. Accuracies are on 1,000 test images.

The second part: on streams of `drift.py` and the probe of their beginning, never renewed, the step at which the guard
said that the probe has grown old.
"""

from __future__ import annotations

import copy
import itertools
import json
import statistics
from typing import Any

import drift
import setting
import torch
from torch.nn.functional import cross_entropy

import taster
from taster import Batch, Guard, Learner
from taster.data import as_batch, load_images
from taster.models import MODELS

SIZE, BURN_IN, PROBE, TEST, LAST, EVERY = 100, 6000, 1000, 1000, 20, 6


def flipped(batch: Batch) -> Batch:
    return Batch(batch.x, (batch.y + 1) % 10)


def wrong(batch: Batch, share: float, generator: torch.Generator) -> Batch:
    rows = torch.randperm(len(batch), generator=generator)[: round(share * len(batch))]
    y = batch.y.clone()
    y[rows] = (y[rows] + torch.randint(1, 10, (len(rows),), generator=generator)) % 10
    return Batch(batch.x, y)


def poisoned(batch: Batch, share: float) -> Batch:
    rows = (batch.y == 3).nonzero().flatten()[: round(share * len(batch))]
    y = batch.y.clone()
    y[rows] = 4
    return Batch(batch.x, y)


def probes(data: Batch, seed: int) -> dict[str, tuple[Batch, Batch]]:
    """Each probe, and the same with the true labels."""
    generator = torch.Generator().manual_seed(seed)
    clean = data.select(slice(PROBE))
    made = {
        "clean": clean,
        "1 % wrong": wrong(clean, 0.01, generator),
        "5 % wrong": wrong(clean, 0.05, generator),
        "5 % poisoned": poisoned(clean, 0.05),
        "100 samples": data.select(slice(100)),
        "250 samples": data.select(slice(250)),
        "5,000 samples": data.select(slice(5000)),
        "rotated by 20°": drift.rotation(clean, 1 / 3),
        "noisy": drift.corruption(clean, 1.0),
    }
    return {name: (probe, data.select(slice(len(probe)))) for name, probe in made.items()}


def burnt_in(options: dict[str, Any], samples: Batch, shape: tuple[int, ...], seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model: torch.nn.Module = MODELS[options["model"]](shape, 10, **json.loads(options["settings"]))  # type: ignore[arg-type]
    learner = learner_of(model, options, Guard())
    for _ in range(options["epochs"]):
        for part in torch.split(torch.randperm(len(samples)), SIZE):
            learner.step(samples.select(part))
    return model


def learner_of(model: torch.nn.Module, options: dict[str, Any], guard: Guard) -> Learner:
    return Learner(model, torch.optim.SGD(model.parameters(), options["rate"], 0.9), cross_entropy, guard)


def run(
    options: dict[str, Any], model: torch.nn.Module, guard: Guard, stream: Batch, test: Batch, *, attacked: bool
) -> dict[str, float]:
    learner = learner_of(copy.deepcopy(model), options, guard)
    touched: dict[bool, list[bool]] = {False: [], True: []}
    accuracies = [learner.view().accuracy(test.x, test.y)]
    drifting = 0
    for step in range(options["steps"]):
        batch = stream.select(slice(step * SIZE, (step + 1) * SIZE))
        bad = attacked and step % EVERY == EVERY - 1
        record = learner.step(flipped(batch) if bad else batch)
        touched[bad].append(not record.verdict.committed or record.attempts > 1)
        drifting += "drifting" in record.verdict.reason
        accuracies.append(learner.view().accuracy(test.x, test.y))
    worst = max(before - after for before, after in itertools.pairwise(accuracies))
    return {
        "cost": 100 * statistics.mean(touched[False]),
        "caught": 100 * statistics.mean(touched[True]) if attacked else 0.0,
        "end": statistics.mean(accuracies[-LAST:]),
        "worst": worst,
        "drifting": drifting,
    }


def labels_found(probe: Batch, truth: Batch, model: torch.nn.Module) -> dict[str, float]:
    listed = {suspect.index for suspect in taster.probe.check(probe, model).suspects}
    bad = set((probe.y != truth.y).nonzero().flatten().tolist())
    return {"wrong": len(bad), "listed": len(listed), "both": len(bad & listed)}


def quality(options: dict[str, Any], images: Any) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options["first_seed"], options["first_seed"] + options["seeds"]):
        order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(seed))
        cuts = order[:BURN_IN], order[BURN_IN : BURN_IN + 5000], order[BURN_IN + 5000 :][: options["steps"] * SIZE]
        first, trusted, stream = (as_batch(images.train.select(cut)) for cut in cuts)
        test = as_batch(images.test.select(torch.arange(TEST)))
        model = burnt_in(options, first, images.shape, seed)
        plain = run(options, model, Guard(), stream, test, attacked=False)["end"]
        harmed = run(options, model, Guard(), stream, test, attacked=True)
        found.setdefault("no guard", []).append(
            {"attacked": {**harmed, "end": harmed["end"] - plain}, "plain": plain, "honest": {"cost": 0.0, "end": 0.0}}
        )
        for name, (probe, truth) in probes(trusted, seed).items():
            row: dict[str, Any] = {"labels": labels_found(probe, truth, model)}
            for kind in ("honest", "attacked"):
                guard = taster.guard(probe, seed=seed)
                got = run(options, model, guard, stream, test, attacked=kind == "attacked")
                row[kind] = {**got, "end": got["end"] - plain}
            found.setdefault(name, []).append(row)
        print(f"seed {seed} done", flush=True)
    print("\n| probe | cost, % | end | cost under attack, % | caught, % | end | worst step |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, runs in found.items():
        cells = [
            setting.spread([r[kind][key] for r in runs])
            for kind, key in (
                ("honest", "cost"),
                ("honest", "end"),
                ("attacked", "cost"),
                ("attacked", "caught"),
                ("attacked", "end"),
                ("attacked", "worst"),
            )
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n| probe | wrong labels | listed | of the wrong ones | \n|---|---:|---:|---:|")
    for name, runs in found.items():
        if "labels" in runs[0]:
            labels = [setting.spread([r["labels"][key] for r in runs]) for key in ("wrong", "listed", "both")]
            print(f"| {name} | {' | '.join(labels)} |")
    return [{"probe": name, "runs": runs} for name, runs in found.items()]


def age(options: dict[str, Any], images: Any) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options["first_seed"], options["first_seed"] + options["seeds"]):
        order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(seed))
        cuts = order[:BURN_IN], order[BURN_IN : BURN_IN + PROBE], order[BURN_IN + PROBE :]
        first, trusted, stream = (as_batch(images.train.select(cut)) for cut in cuts)
        for world in (name for name in drift.WORLDS if name != "head"):  # a probe of before has no class of after
            model = burnt_in(options, first.select(first.y < drift.classes_by(world, 0.0)), images.shape, seed)
            probe = drift.Source(trusted, world).draw(512, 0.0)
            learner = learner_of(model, options, taster.guard(probe, seed=seed))
            source, old, refused = drift.Source(stream, world), None, 0
            steps = options["age_steps"]
            for step in range(steps):
                # Half of the stream is as the probe is, and then the world changes.
                record = learner.step(source.draw(SIZE, max(0.0, 2 * (step + 1) / steps - 1)))
                refused += not record.verdict.committed
                if old is None and "grown old" in learner.guard.gates[0].advice:  # type: ignore[attr-defined]
                    old = step
            found.setdefault(world, []).append({"old": old, "refused": 100 * refused / steps})
        print(f"seed {seed}: { ({name: runs[-1] for name, runs in found.items()}) }", flush=True)
    return [{"stream": name, "runs": runs} for name, runs in found.items()]


def main() -> None:
    parser = setting.parser(__doc__)
    parser.set_defaults(model="mlp", settings='{"hidden": [64]}')
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--age-steps", type=int, default=240)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--part", choices=["quality", "age", "both"], default="both")
    options = setting.begin(parser)
    images = load_images(options["data"])
    parts = {"quality": quality, "age": age}
    chosen = parts if options["part"] == "both" else {options["part"]: parts[options["part"]]}
    found = {name: part(options, images) for name, part in chosen.items()}
    kept = {key: options[key] for key in ("seeds", "steps", "age_steps", "rate", "epochs")}
    setting.write(options, **kept, **found)


if __name__ == "__main__":
    main()
