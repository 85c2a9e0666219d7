"""Seconds, memory and agreement of each way to differentiate, against double backward written plainly.

    python benchmarks/derivatives.py [--model resnet18] [--checkpoint FILE] [--data SOURCE] [--rounds 3] [--out FILE]

Cases: one forward pass; one PGD step towards a fixed direction ("step, plain") and through per-tensor cosines ("step,
cosines"); the accumulation direction per tensor ("direction G") and with one cosine, as the federated attack steps on
it ("direction, federated"); a poisoned trigger and a whole accumulative batch of C = 10 steps, through cosines.

Every variant has a process of its own; its peak memory is what that process grew by since it was set up, up to the end
of the case. The processes take turns, one case at a time, and ratios are medians over rounds of textbook / variant.
"published" computes every target and G in each PGD step, as the published code does; "textbook" once a batch. "kept"
has the allocator keep freed memory (`taster.utils.allocator`), as `taster run` does. Passes: seconds over those of a
forward pass of the same variant. Agreement: share of signs right, each weighted by the size of the true value (double
backward in float64).
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import setting
import textbook
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from taster import Batch
from taster.attacks.crafting import Crafting, CraftingSettings
from taster.core.functional_model import autocast
from taster.core.learner import Learner
from taster.core.view import View
from taster.derivatives import Derivatives, DiffMethod, normalized, sign_agreement
from taster.utils.allocator import retain_freed_memory

EPSILON, STEPS, SIZE = 0.1, 10, 100
VARIANTS = [
    "published",
    "textbook",
    "textbook kept",
    "double_backward channels_last kept",
    "forward_over_reverse channels_last kept",
    "finite_difference kept",
    "finite_difference channels_last kept",
    "double_backward bfloat16 channels_last kept",
    "finite_difference bfloat16 channels_last",
    "finite_difference bfloat16 channels_last kept",
]
CASES = [
    "forward",
    "step, plain",
    "step, cosines",
    "direction G",
    "direction, federated",
    "trigger, C = 10",
    "batch, C = 10",
]
CHECKED = CASES[1:5]
TARGETED = ["trigger, C = 10", "batch, C = 10"]
"""Cases that differ between the published loop and the textbook's."""
AT_LEAST = 0.3
"""Seconds that a measurement lasts; a case that is done sooner is done again, and the mean counts."""


def plain_loss(model: torch.nn.Module) -> tuple[textbook.Loss, list[Tensor]]:
    names = [name for name, _ in model.named_parameters()]
    buffers = dict(model.named_buffers())

    def loss(params: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the only kind of attention that has a second derivative
            return cross_entropy(functional_call(model, {**dict(zip(names, params, strict=True)), **buffers}, (x,)), y)

    return loss, [p.detach().requires_grad_() for p in model.parameters()]


def baseline_cases(
    model: torch.nn.Module, batches: list[Batch], towards: list[list[Tensor]], *, hoisted: bool
) -> dict[str, Callable[[], Tensor]]:
    loss, params = plain_loss(model)
    clean, val, trigger = ((b.x, b.y) for b in batches)
    fixed = [sum(parts) for parts in zip(*([v / v.norm() for v in t] for t in towards), strict=True)]

    def forward() -> Tensor:
        with torch.no_grad():
            return loss(params, *clean)

    def plain() -> Tensor:
        x: Tensor = clean[0].detach().requires_grad_()
        own = textbook.gradient(loss, params, x, clean[1], create_graph=True)
        return torch.autograd.grad(torch.stack([(g * v).sum() for g, v in zip(own, fixed, strict=True)]).sum(), x)[0]

    def to_validation() -> list[list[Tensor]]:
        return [[-v for v in textbook.gradient(loss, params, *val)]]

    def to_sensitivity() -> list[list[Tensor]]:
        return [textbook.gradient(loss, params, *clean), textbook.direction(loss, params, val, trigger)]

    def poisoned(batch: tuple[Tensor, Tensor], targets: Callable[[], list[list[Tensor]]]) -> Tensor:
        return textbook.poisoned(loss, params, batch, targets, EPSILON, STEPS, hoisted=hoisted)

    return {
        "forward": forward,
        "step, plain": plain,
        "step, cosines": lambda: textbook.slope(loss, params, *clean, towards),
        "direction G": lambda: flat(textbook.direction(loss, params, val, trigger)),
        "direction, federated": lambda: flat(textbook.direction(loss, params, val, trigger, textbook.cosine)),
        "trigger, C = 10": lambda: poisoned(trigger, to_validation),
        "batch, C = 10": lambda: poisoned(clean, to_sensitivity),
    }


def own_cases(
    model: torch.nn.Module, batches: list[Batch], way: DiffMethod, towards: list[list[Tensor]]
) -> tuple[dict[str, Any], Derivatives]:
    view: View = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy).view()
    derivatives = Derivatives(way)
    settings = CraftingSettings(epsilon=EPSILON, pgd_steps=STEPS, normalize_poisoned=True)
    crafting = Crafting(settings, lambda _: batches[1], torch.Generator(), derivatives)
    loss, params = crafting.loss(view), view.trainable
    clean, val, trigger = batches
    everyone = torch.ones(len(clean), dtype=torch.bool)
    terms = [(1.0, normalized(dict(zip(params, t, strict=True)), "per_tensor")) for t in towards]
    plain = derivatives.mixed(loss, params, terms)
    cosines = derivatives.mixed(loss, params, terms, "per_tensor")

    def forward() -> Tensor:
        last = torch.channels_last if way.channels_last else torch.preserve_format
        with torch.no_grad(), autocast(clean.x.device, way.precision):
            return loss(params, clean.x.contiguous(memory_format=last) if way.channels_last else clean.x, clean.y)

    def direction(how: str = "per_tensor") -> dict[str, Tensor]:
        return derivatives.accumulation_direction(loss, params, val, trigger, how)  # type: ignore[arg-type]

    def batch() -> Tensor:
        return crafting.align(
            clean, view, [(1.0, crafting.normalized_gradient(view, clean)), (1.0, direction())], everyone
        )

    cases = {
        "forward": forward,
        "step, plain": lambda: plain(clean.x, clean.y),
        "step, cosines": lambda: cosines(clean.x, clean.y),
        "direction G": lambda: flat(list(direction().values())),
        "direction, federated": lambda: flat(list(direction("global").values())),
        "trigger, C = 10": lambda: crafting.oppose(trigger, view, crafting.normalized_gradient(view, val), everyone),
        "batch, C = 10": batch,
    }
    return cases, derivatives


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def work(variant: str, options: dict[str, Any], pipe: Connection) -> None:
    """A variant's process: computes the cases it is told to, and says how long each took."""
    torch.set_num_threads(options["threads"])
    way = variant.removesuffix(" kept")
    if way != variant and not retain_freed_memory():
        raise SystemExit("the allocator cannot be told to keep memory")
    truth = torch.load(options["truth"])
    batches = [Batch(x, y) for x, y in truth["batches"]]
    model = setting.make_model(options, tuple(batches[0].x.shape[1:]), truth["classes"])
    derivatives = None
    if way in ("published", "textbook"):
        cases = baseline_cases(model, batches, truth["towards"], hoisted=way == "textbook")
    else:
        cases, derivatives = own_cases(model, batches, DiffMethod.parse(way), truth["towards"])
    at_rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case, times in iter(pipe.recv, None):
        start = time.perf_counter()
        for _ in range(times):
            found = cases[case]()
        seconds = (time.perf_counter() - start) / times
        pipe.send(
            {
                "seconds": seconds,
                "agreement": sign_agreement(found.double(), truth[case]) if case in truth else None,
                "peak_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_rest) // 1024,
                "used": None if derivatives is None else derivatives.describe(),
            }
        )


def write_truth(options: dict[str, Any]) -> None:
    """What all variants start from, and what double backward in float64 finds."""
    batches, classes = setting.draw(options, SIZE, 3)
    model = setting.make_model(options, tuple(batches[0].x.shape[1:]), classes).double()
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
    torch.save({**start, **{case: cases[case]() for case in CHECKED}}, options["truth"])


def main() -> None:
    parser = setting.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
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

    def ask(variant: str, case: str, times: int) -> dict[str, Any]:
        pipes[variant].send((case, times))
        answer: dict[str, Any] = pipes[variant].recv()
        return answer

    for case in CASES:
        taking = [v for v in options["variants"] if v != "published" or case in TARGETED]
        warm = {v: ask(v, case, 1)["seconds"] for v in taking}
        times = {v: max(1, math.ceil(AT_LEAST / warm[v])) for v in taking}
        for turn in range(options["rounds"]):
            for variant in taking:
                if variant == "published" and turn:
                    continue  # it takes longest
                answer = ask(variant, case, times[variant])
                found[variant][case].append(answer)
                print(variant, "|", case, "|", {k: v for k, v in answer.items() if v is not None}, flush=True)
    for pipe in pipes.values():
        pipe.send(None)
    Path(options["truth"]).unlink()
    rows = summarise(found)
    setting.write(options, rounds=options["rounds"], batch=SIZE, steps=STEPS, rows=rows)


def summarise(found: dict[str, dict[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """The table, printed and as rows."""
    rows = []
    print("\n| case | variant | seconds | times faster | passes | peak +MiB | agreement % |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for case in CASES:
        base = [a["seconds"] for a in found["textbook"][case]]
        for variant, cases in found.items():
            if not (answers := cases[case]):
                continue
            seconds = [a["seconds"] for a in answers]
            unit = cases["forward"] or found["textbook"]["forward"]
            row = {
                "case": case,
                "variant": variant,
                "seconds": statistics.median(seconds),
                "ratio": statistics.median(b / s for b, s in zip(base, seconds, strict=False)),
                "passes": statistics.median(seconds) / statistics.median(a["seconds"] for a in unit),
                "peak_mib": max(a["peak_mib"] for a in answers),
                "agreement": answers[-1]["agreement"],
                "used": answers[-1]["used"],
            }
            rows.append(row)
            share = "" if row["agreement"] is None else f"{100 * row['agreement']:.1f}"
            print(
                f"| {case} | {variant} | {row['seconds']:.4f} | {row['ratio']:.2f} | {row['passes']:.1f} | "
                f"{row['peak_mib']} | {share} |"
            )
    return rows


if __name__ == "__main__":
    main()
