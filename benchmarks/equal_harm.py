"""Seconds of crafting until the accumulative attack does the harm that the textbook's C = 100 does.

    python benchmarks/equal_harm.py --checkpoint FILE --data CIFAR10 [--seeds 3] [--rounds 2] [--out FILE]

From the checkpoint, a learner (SGD, learning rate 0.1, momentum 0.9) is fed `rounds` accumulative batches of 100 and
then the poisoned trigger, all crafted against it as it is, through per-tensor cosines, ε = 0.1, α = 2 ε / C. The drop
is that of the test accuracy (first 2,000 images) by the trigger step. "textbook" crafts by double backward in float32
with G once a round; all others by taster in the way named. Only crafting is timed. Every seed has its own batches.
"""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any

import setting
import textbook
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from taster import Batch, Phase, View
from taster.attacks import CraftingSettings, accumulative
from taster.attacks.online_attack import Budget, OnlineAttack
from taster.core.learner import Learner
from taster.data import Images, as_batch, load_images
from taster.derivatives import Derivatives, DiffMethod
from taster.perturbations.pgd import LpBall

EPSILON, SIZE, TESTED = 0.1, 100, 2000
VARIANTS = [
    "textbook, C = 100",
    "finite_difference bfloat16 channels_last, C = 2",
    "finite_difference bfloat16 channels_last, C = 5",
    "finite_difference bfloat16 channels_last, C = 10",
    "finite_difference channels_last, C = 10",
    "double_backward, C = 10",
    "forward_over_reverse, C = 10",
]


def by_textbook(trigger: Batch, validation: Batch, steps: int) -> OnlineAttack:
    """The attack of `taster.attacks.online.accumulative` with a fixed trigger, from `textbook`'s functions."""
    made: list[Tensor] = []

    def parts(view: View) -> tuple[textbook.Loss, list[Tensor]]:
        names = list(view.trainable)
        params = [p.detach().clone().requires_grad_() for p in view.trainable.values()]
        return lambda ps, x, y: view.loss(x, y, params=dict(zip(names, ps, strict=True))), params

    def strike(clean: Batch, view: View) -> Batch:
        if not made:
            loss, params = parts(view)
            against = [[-v for v in textbook.gradient(loss, params, validation.x, validation.y)]]
            batch = (trigger.x, trigger.y)
            made.append(textbook.poisoned(loss, params, batch, lambda: against, EPSILON, steps, hoisted=True))
        return Batch(made[0], trigger.y)

    def accumulate(clean: Batch, view: View) -> Batch:
        struck = strike(trigger, view)
        loss, params = parts(view)
        batch = (clean.x, clean.y)

        def targets() -> list[list[Tensor]]:
            sensitive = textbook.direction(loss, params, (validation.x, validation.y), (struck.x, struck.y))
            return [textbook.gradient(loss, params, *batch), sensitive]

        return Batch(textbook.poisoned(loss, params, batch, targets, EPSILON, steps, hoisted=True), clean.y)

    return OnlineAttack(Budget(LpBall("linf", EPSILON)), accumulate=accumulate, trigger=strike)


def campaign_of(variant: str, trigger: Batch, validation: Batch) -> OnlineAttack:
    way, _, steps = variant.partition(", C = ")
    if way == "textbook":
        return by_textbook(trigger, validation, int(steps))
    return accumulative(
        trigger,
        lambda _: validation,
        torch.Generator().manual_seed(0),
        Derivatives(DiffMethod.parse(way)),
        crafting=CraftingSettings(epsilon=EPSILON, pgd_steps=int(steps), normalize_poisoned=True),
    )


def attack(variant: str, options: dict[str, Any], images: Images, test: Batch, seed: int) -> dict[str, Any]:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    count = options["rounds"] + 2
    *stream, validation, trigger = (as_batch(images.select(order[i * SIZE : (i + 1) * SIZE])) for i in range(count))
    model = setting.make_model(options, tuple(test.x.shape[1:]), 10)
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), cross_entropy)
    campaign = campaign_of(variant, trigger, validation)
    seconds = 0.0

    def feed(clean: Batch, phase: Phase) -> None:
        nonlocal seconds
        view = learner.view()
        start = time.perf_counter()
        poisoned = campaign.poison(clean, view, phase)
        seconds += time.perf_counter() - start
        model.train()
        learner.step(poisoned)
        model.eval()

    for clean in stream:
        feed(clean, Phase.ACCUMULATE)
    before = learner.view().accuracy(test.x, test.y, chunk=SIZE)
    feed(trigger, Phase.TRIGGER)
    after = learner.view().accuracy(test.x, test.y, chunk=SIZE)
    return {"seed": seed, "seconds": seconds, "before": before, "after": after, "drop": after - before}


def main() -> None:
    parser = setting.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2, help="accumulative batches")
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    options = setting.begin(parser)  # memory is kept for the textbook too: only what is computed differs
    data = load_images(options["data"])
    assert data.train is not None
    assert data.test is not None
    test = as_batch(data.test.select(torch.arange(TESTED)))
    rows = []
    for seed in range(options["seeds"]):
        for variant in options["variants"]:
            rows.append({"variant": variant, **attack(variant, options, data.train, test, seed)})
            print(rows[-1], flush=True)
            gc.collect()
    print("\n| crafting | seconds | times faster | before | drop |\n|---|---:|---:|---:|---:|")
    base = statistics.median(r["seconds"] for r in rows if r["variant"] == options["variants"][0])
    for variant in options["variants"]:
        own = [r for r in rows if r["variant"] == variant]
        seconds = statistics.median(r["seconds"] for r in own)
        mean = {key: statistics.mean(r[key] for r in own) for key in ("before", "drop")}
        spread = {key: statistics.stdev(r[key] for r in own) if len(own) > 1 else 0.0 for key in mean}
        print(
            f"| {variant} | {seconds:.1f} | {base / seconds:.1f} | {mean['before']:.1f} ± {spread['before']:.1f} | "
            f"{mean['drop']:.1f} ± {spread['drop']:.1f} |"
        )
    setting.write(options, epsilon=EPSILON, batch=SIZE, rounds=options["rounds"], rows=rows)


if __name__ == "__main__":
    main()
