"""What the benchmarks of crafting share: batches, a model, and the arguments that choose them."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from taster import Batch, Guard, Learner, SnapshotBuffer
from taster.data import as_batch, load_images
from taster.experiments.scenarios.weights import load_weights
from taster.models import MODELS
from taster.utils.allocator import retain_freed_memory

CIFAR = {"pixel_mean": [0.4914, 0.4822, 0.4465], "pixel_std": [0.2023, 0.1994, 0.2010]}


def parser(about: str | None) -> argparse.ArgumentParser:
    """With the arguments that `draw` and `make_model` read."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--model", choices=list(MODELS), default="resnet18")
    found.add_argument("--settings", default="{}", help="further settings of the model, as JSON")
    found.add_argument("--checkpoint", help="weights of a CIFAR-10 ResNet-18, max-pooled, on standardised pixels")
    found.add_argument("--data", help="a data set; random 32x32 images without it")
    found.add_argument("--threads", type=int, default=torch.get_num_threads())
    found.add_argument("--out", type=Path, help="a file for the figures, as JSON")
    return found


def begin(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The arguments; from here on with so many threads, and memory kept."""
    options = vars(parser.parse_args())
    torch.set_num_threads(options["threads"])
    retain_freed_memory()
    return options


def draw(options: dict[str, Any], size: int, count: int) -> tuple[list[Batch], int]:
    """So many batches of so many samples; and the number of classes."""
    torch.manual_seed(0)
    if not options["data"]:
        return [Batch(torch.rand(size, 3, 32, 32), torch.randint(0, 10, (size,))) for _ in range(count)], 10
    images = load_images(options["data"])
    assert images.train is not None
    return [as_batch(images.train.select(torch.arange(i * size, (i + 1) * size))) for i in range(count)], images.classes


def make_model(options: dict[str, Any], shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    """The model in eval mode."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"max_pool": True, **CIFAR} if options["checkpoint"] else {}
    settings |= json.loads(options["settings"])
    model: torch.nn.Module = MODELS[options["model"]](shape, classes, **settings).eval()  # type: ignore[arg-type]
    if options["checkpoint"]:
        load_weights(model, options["checkpoint"])
    return model


def make_learner(options: dict[str, Any], shape: tuple[int, ...], classes: int, guard: Guard | None = None) -> Learner:
    """At the checkpoint, with the weights of `--earlier` pinned under that label where they are given."""
    model = make_model(options, shape, classes)
    history = (
        SnapshotBuffer.for_rewind(guard.max_rewind)
        if guard is not None and guard.max_rewind
        else SnapshotBuffer(capacity=0)
    )
    learner = Learner(
        model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), cross_entropy, guard, snapshots=history
    )
    if options["earlier"]:
        load_weights(model, options["earlier"])
    history.pin("earlier", learner.snapshot())
    if options["checkpoint"]:
        load_weights(model, options["checkpoint"])
    return learner


def spread(values: list[float]) -> str:
    """The mean and the standard deviation, as tables have them."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.1f}"


def write(options: dict[str, Any], **found: Any) -> None:
    """Leaves what was found, and with what, in the file of `--out`, where it is given."""
    if options["out"]:
        options["out"].write_text(json.dumps({**about(options), **found}, indent=1) + "\n")


def about(options: dict[str, Any]) -> dict[str, Any]:
    """What a result was measured with."""
    kept = {key: options[key] for key in ("model", "settings", "threads")}
    return {
        **kept,
        "trained": bool(options["checkpoint"]),
        "data": options["data"] is not None,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def burn_in(model: torch.nn.Module, optimizer: torch.optim.Optimizer, draw: Callable[[int], Batch], steps: int) -> None:
    """Trains in the plain way, at ten times the rate for the first four fifths."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (10 if step < 0.8 * steps else 1)
        batch = draw(step)
        optimizer.zero_grad()
        cross_entropy(model(batch.x), batch.y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
