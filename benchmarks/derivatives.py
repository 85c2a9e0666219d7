"""Seconds, memory and agreement of each way to differentiate, against double backward written plainly.

    python benchmarks/derivatives.py [--model resnet18] [--checkpoint FILE] [--data SOURCE] [--rounds 3] [--out FILE]

Cases: one PGD step towards a fixed direction ("step, plain") and through per-tensor cosines ("step, cosines"), the
accumulation direction G, and a whole accumulative batch of C = 10 steps through cosines. Every variant has a process of
its own; its peak memory is what that process grew by since it was set up, up to the end of the case. The processes take
turns, one case at a time, and ratios are medians over rounds of baseline / variant. "published" computes G in every PGD
step, as the published code does; "textbook" once.
Agreement: share of signs right, each weighted by the size of the true value (double backward in float64).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import textbook
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from taster import Batch
from taster.attacks.campaign import Budget
from taster.attacks.crafting import Crafting
from taster.calculus import Derivatives, Way, agreement, normalised
from taster.data import as_batch, load_images
from taster.experiments.burn_in import load_weights
from taster.learner import Learner
from taster.models import MODELS
from taster.pgd import Ball
from taster.view import View

EPSILON, STEPS, SIZE = 0.1, 10, 100
CIFAR = {"pixel_mean": [0.4914, 0.4822, 0.4465], "pixel_std": [0.2023, 0.1994, 0.2010]}
VARIANTS = [
    "published",
    "textbook",
    "double_backward",
    "forward_over_reverse",
    "held_difference",
    "held_difference channels_last",
    "double_backward bfloat16",
    "held_difference bfloat16",
    "held_difference bfloat16 channels_last",
]
CASES = ["step, plain", "step, cosines", "direction G", "batch, cosines"]


def draw(options: dict[str, Any]) -> tuple[list[Batch], int]:
    """Three batches: clean, validation, trigger; and the number of classes."""
    torch.manual_seed(0)
    if not options["data"]:
        return [Batch(torch.rand(SIZE, 3, 32, 32), torch.randint(0, 10, (SIZE,))) for _ in range(3)], 10
    images = load_images(options["data"])
    assert images.train is not None
    return [as_batch(images.train.select(torch.arange(i, i + SIZE))) for i in (0, 1000, 2000)], images.classes


def make_model(options: dict[str, Any], shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    """The model in eval mode."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"max_pool": True, **CIFAR} if options["checkpoint"] else {}
    settings |= json.loads(options["settings"])
    model: torch.nn.Module = MODELS[options["model"]](shape, classes, **settings).eval()  # type: ignore[arg-type]
    if options["checkpoint"]:
        load_weights(model, options["checkpoint"])
    return model


def plain_loss(model: torch.nn.Module) -> tuple[textbook.Loss, list[Tensor]]:
    names = [name for name, _ in model.named_parameters()]
    buffers = dict(model.named_buffers())

    def loss(params: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, {**dict(zip(names, params, strict=True)), **buffers}, (x,)), y)

    return loss, [p.detach().requires_grad_() for p in model.parameters()]


def baseline_cases(
    model: torch.nn.Module, batches: list[Batch], towards: list[list[Tensor]], *, hoisted: bool
) -> dict[str, Callable[[], Tensor]]:
    loss, params = plain_loss(model)
    clean, val, trigger = ((b.x, b.y) for b in batches)
    fixed = [sum(parts) for parts in zip(*([v / v.norm() for v in t] for t in towards), strict=True)]

    def plain() -> Tensor:
        x = clean[0].detach().requires_grad_()
        own = textbook.gradient(loss, params, x, clean[1], create_graph=True)
        return torch.autograd.grad(torch.stack([(g * v).sum() for g, v in zip(own, fixed, strict=True)]).sum(), x)[0]

    return {
        "step, plain": plain,
        "step, cosines": lambda: textbook.slope(loss, params, *clean, towards),
        "direction G": lambda: flat(textbook.direction(loss, params, val, trigger)),
        "batch, cosines": lambda: textbook.poisoned(loss, params, clean, val, trigger, EPSILON, STEPS, hoisted=hoisted),
    }


def own_cases(
    model: torch.nn.Module, batches: list[Batch], way: Way, towards: list[list[Tensor]]
) -> tuple[dict[str, Any], Derivatives]:
    view: View = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy).view()
    derivatives = Derivatives(way)
    budget = Budget(Ball("linf", EPSILON))
    crafting = Crafting(budget, STEPS, None, "per_tensor", True, "eval", derivatives)
    loss, params = crafting.loss(view), view.trainable
    clean, val, trigger = batches
    everyone = torch.ones(len(clean), dtype=torch.bool)
    terms = [(1.0, normalised(dict(zip(params, t, strict=True)), "per_tensor")) for t in towards]
    plain = derivatives.mixed(loss, params, terms)
    cosines = derivatives.mixed(loss, params, terms, "per_tensor")

    def direction() -> dict[str, Tensor]:
        return derivatives.accumulation_direction(loss, params, val, trigger, "per_tensor")

    def batch() -> Tensor:
        return crafting.align(clean, view, [(1.0, crafting.target(view, clean)), (1.0, direction())], everyone)

    cases = {
        "step, plain": lambda: plain(clean.x, clean.y),
        "step, cosines": lambda: cosines(clean.x, clean.y),
        "direction G": lambda: flat(list(direction().values())),
        "batch, cosines": batch,
    }
    return cases, derivatives


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def work(variant: str, options: dict[str, Any], pipe: Connection) -> None:
    """A variant's process: computes the cases it is told to, and says how long each took."""
    torch.set_num_threads(options["threads"])
    truth = torch.load(options["truth"])
    batches = [Batch(x, y) for x, y in truth["batches"]]
    model = make_model(options, tuple(batches[0].x.shape[1:]), truth["classes"])
    derivatives = None
    if variant in ("published", "textbook"):
        cases: dict[str, Callable[[], Tensor]] = baseline_cases(
            model, batches, truth["towards"], hoisted=variant == "textbook"
        )
    else:
        cases, derivatives = own_cases(model, batches, Way.parse(variant), truth["towards"])
    at_rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in iter(pipe.recv, None):
        start = time.perf_counter()
        found = cases[case]()
        seconds = time.perf_counter() - start
        pipe.send(
            {
                "seconds": seconds,
                "agreement": agreement(found.double(), truth[case]) if case in truth else None,
                "peak_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_rest) // 1024,
                "used": None if derivatives is None else derivatives.used(),
            }
        )


def write_truth(options: dict[str, Any]) -> None:
    """What all variants start from, and what double backward in float64 finds."""
    batches, classes = draw(options)
    model = make_model(options, tuple(batches[0].x.shape[1:]), classes).double()
    wide = [Batch(b.x.double(), b.y) for b in batches]
    loss, params = plain_loss(model)
    clean, val, trigger = ((b.x, b.y) for b in wide)
    towards = [textbook.gradient(loss, params, *clean), textbook.direction(loss, params, val, trigger)]
    cases = baseline_cases(model, wide, towards, hoisted=True)
    start = {
        "batches": [(b.x, b.y) for b in batches],
        "classes": classes,
        "towards": [[v.float() for v in t] for t in towards],
    }
    torch.save({**start, **{case: cases[case]() for case in CASES[:3]}}, options["truth"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="resnet18")
    parser.add_argument("--settings", default="{}", help="further settings of the model, as JSON")
    parser.add_argument("--checkpoint", help="weights of a CIFAR-10 ResNet-18, max-pooled, on standardised pixels")
    parser.add_argument("--data", help="a data set; random images without it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--out", type=Path)
    options = vars(parser.parse_args())
    context = multiprocessing.get_context("spawn")
    options["truth"] = str(Path("truth.pt").resolve())
    first = context.Process(target=write_truth, args=(options,))
    first.start()
    first.join()
    pipes: dict[str, Connection] = {}
    found: dict[str, dict[str, list[dict[str, Any]]]] = {v: {case: [] for case in CASES} for v in options["variants"]}
    for variant in options["variants"]:
        pipes[variant], theirs = context.Pipe()
        context.Process(target=work, args=(variant, options, theirs), daemon=True).start()
    for case in CASES:
        for turn in range(options["rounds"] + 1):
            for variant in options["variants"]:
                if variant == "published" and (case != "batch, cosines" or turn > 1):
                    continue  # differs from the textbook in whole batches alone, and takes longest
                pipes[variant].send(case)
                answer = pipes[variant].recv()
                if turn:  # the first is for warming up
                    found[variant][case].append(answer)
                print(variant, "|", case, "|", {k: v for k, v in answer.items() if v is not None}, flush=True)
    for pipe in pipes.values():
        pipe.send(None)
    Path(options["truth"]).unlink()
    rows = []
    print("\n| case | variant | seconds | times faster | peak +MiB | agreement % |\n|---|---|---:|---:|---:|---:|")
    for case in CASES:
        base = [a["seconds"] for a in found["textbook"][case]]
        for variant, cases in found.items():
            if answers := cases[case]:
                seconds = [a["seconds"] for a in answers]
                row = {
                    "case": case,
                    "variant": variant,
                    "seconds": statistics.median(seconds),
                    "ratio": statistics.median(b / s for b, s in zip(base, seconds, strict=False)),
                    "peak_mib": max(a["peak_mib"] for a in answers),
                    "agreement": answers[-1]["agreement"],
                    "used": answers[-1]["used"],
                }
                rows.append(row)
                share = "" if row["agreement"] is None else f"{100 * row['agreement']:.1f}"
                print(
                    f"| {case} | {variant} | {row['seconds']:.3f} | {row['ratio']:.2f} | {row['peak_mib']} | {share} |"
                )
    if options["out"]:
        about = {k: options[k] for k in ("model", "settings", "rounds", "threads")}
        about |= {"trained": bool(options["checkpoint"]), "torch": torch.__version__, "machine": platform.machine()}
        options["out"].write_text(json.dumps({**about, "batch": SIZE, "steps": STEPS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
