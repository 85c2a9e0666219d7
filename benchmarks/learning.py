"""What the default guard costs models that learn honestly, from random weights and when level, and what it holds off.

    python benchmarks/learning.py --data-mnist MNIST --data-cifar10 CIFAR10 [--seeds 5] [--only NAME ...]
        [--streams honest poisoned] [--threads 1] [--out FILE]

Each model learns from the same batches without a guard and behind `taster.guard(probe)`, in two streams: an honest one,
and one of which every twelfth batch has its labels moved on by one, from step 20 on. The first names begin from random
weights, those with "level" after a burn-in at ten times their rate. "end" is the accuracy on 2,000 test images, mean
over the last 20 steps; "refused" is of honest and of poisoned batches; "worst" the worst poisoned step, in points. What
FILE has of other models and streams stays in it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from setting import burn_in, spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import taster
from taster import Batch, Guard, Learner
from taster.data import as_batch, load_images
from taster.models import MODELS

STREAMS = ("honest", "poisoned")
PROBE, TEST, LAST, EVERY, FIRST = 1000, 2000, 20, 12, 20


class RowTransformer(nn.Module):
    """Two layers of self-attention on the rows of an image."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(shape[0] * shape[2], width)
        self.position = nn.Parameter(torch.randn(shape[1], width) * 0.1)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)
        return self.head(self.layers(self.embed(rows) + self.position).mean(1))  # type: ignore[no-any-return]


Make = Callable[[tuple[int, ...], int], nn.Module]
Optimize = Callable[[nn.Module], torch.optim.Optimizer]


def built_in(name: str, **settings: Any) -> Make:
    return lambda shape, classes: MODELS[name](shape, classes, **settings)  # type: ignore[arg-type]


def sgd(rate: float, momentum: float = 0.9) -> Optimize:
    return lambda model: torch.optim.SGD(model.parameters(), rate, momentum)


@dataclass(frozen=True)
class Case:
    """A model, and how it learns."""

    data: str
    make: Make
    optimize: Optimize
    batch: int = 64
    steps: int = 300
    burn_in: int = 0


CNN, MLP = built_in("small_cnn", width=8, grid=4), built_in("mlp", hidden=[128])
CASES: dict[str, Case] = {
    "MNIST, CNN with batch norm": Case("mnist", CNN, sgd(0.05)),
    "MNIST, MLP": Case("mnist", MLP, sgd(0.1, 0.0)),
    "MNIST, transformer": Case("mnist", RowTransformer, lambda m: torch.optim.AdamW(m.parameters(), 1e-3)),
    "CIFAR-10, CNN with batch norm": Case("cifar10", CNN, sgd(0.05)),
    "MNIST, CNN, level": Case("mnist", CNN, sgd(0.005), 100, 200, 300),
    "MNIST, MLP, level": Case("mnist", MLP, sgd(0.005), 100, 200, 300),
    "CIFAR-10, CNN, level": Case("cifar10", CNN, sgd(0.005), 100, 200, 240),
}
GUARDS: dict[str, Callable[[Batch, int], Guard]] = {
    "none": lambda probe, seed: Guard(),  # noqa: ARG005
    "guard": lambda probe, seed: taster.guard(probe, seed=seed),
}


def run(
    case: Case, guard: Guard, seed: int, parts: dict[str, Batch], shape: tuple[int, ...], poisoned: bool
) -> dict[str, float]:
    """One stream."""
    torch.manual_seed(seed)
    model = case.make(shape, 10)
    optimizer = case.optimize(model)
    stream, test = parts["stream"], parts["test"]

    def draw(step: int) -> Batch:
        return stream.select(torch.arange(step * case.batch, (step + 1) * case.batch) % len(stream))

    burn_in(model, optimizer, draw, case.burn_in)
    learner = Learner(model, optimizer, cross_entropy, guard)

    def accuracy() -> float:
        return learner.view().accuracy(test.x, test.y)

    start, worst, ended, refused, count = accuracy(), 0.0, [], {False: 0, True: 0}, {False: 0, True: 0}
    for step in range(case.steps):
        batch, bad = draw(case.burn_in + step), poisoned and step >= FIRST and step % EVERY == EVERY - 1
        before = accuracy() if bad else 0.0
        record = learner.step(Batch(batch.x, (batch.y + 1) % 10) if bad else batch)
        worst = min(worst, accuracy() - before) if bad else worst
        count[bad] += 1
        refused[bad] += not record.verdict.committed
        if step >= case.steps - LAST:
            ended.append(accuracy())
    found = {"start": start, "end": statistics.mean(ended), "refused": 100 * refused[False] / count[False]}
    if poisoned:
        found |= {"refused_poison": 100 * refused[True] / count[True], "worst": worst}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-mnist", required=True)
    parser.add_argument("--data-cifar10", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=STREAMS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = {
        name: load_images(getattr(options, f"data_{name}")) for name in {CASES[case].data for case in options.only}
    }
    rows = json.loads(options.out.read_text())["rows"] if options.out and options.out.exists() else []
    print("| model | stream | plain: end | guard: end | refused, % | poison refused, % | worst, plain | worst, guard |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name in options.only:
        case = CASES[name]
        data = images[case.data]
        assert data.train is not None
        assert data.test is not None
        test = as_batch(data.test.select(torch.arange(TEST)))
        for stream_name in options.streams:
            poisoned = stream_name == "poisoned"
            runs: dict[str, list[dict[str, float]]] = {guard: [] for guard in GUARDS}
            for seed in range(options.seeds):
                order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
                probe, stream = (as_batch(data.train.select(cut)) for cut in (order[:PROBE], order[PROBE:31000]))
                for guard, made in GUARDS.items():
                    parts = {"stream": stream, "test": test}
                    runs[guard].append(run(case, made(probe, seed), seed, parts, data.shape, poisoned))
            rows = [row for row in rows if (row["model"], row["stream"]) != (name, stream_name)]
            rows.append({"model": name, "stream": stream_name, "runs": runs})
            if options.out:
                about = {"torch": torch.__version__, "machine": platform.machine(), "threads": options.threads}
                options.out.write_text(
                    json.dumps({**about, "probe": PROBE, "test": TEST, "rows": rows}, indent=1) + "\n"
                )
            column = {guard: {key: [r[key] for r in found] for key in found[0]} for guard, found in runs.items()}
            held = column["guard"]
            poison = (
                (spread(held["refused_poison"]), spread(column["none"]["worst"]), spread(held["worst"]))
                if poisoned
                else ("–",) * 3
            )
            ends = spread(column["none"]["end"]), spread(held["end"]), spread(held["refused"])
            print("| " + " | ".join([name, stream_name, *ends, *poison]) + " |", flush=True)


if __name__ == "__main__":
    main()
