"""Seconds of one defended step over one plain step, for each defence.

    python benchmarks/defences.py --checkpoint FILE --earlier FILE --data CIFAR10 [--rounds 8] [--probe 512]
        [--burn-in 0] [--only NAME ...] [--out FILE]

A plain step is `zero_grad; backward; step`. Every defence has a learner of its own at the checkpoint, or after a
burn-in of so many plain steps, at ten times the rate for the first four fifths, fed clean batches of 100; in each round
all of them and the plain step take turns on the same batch. The ratio is the median over rounds; of a guard, whose
steps are not all alike, the mean: its audits take a tenth of the work, one in so many steps, and are in it where there
are as many rounds (`--probe` / 30). What it measures before the first step is not. Gates have a probe of 512 samples or
as many as `--probe` says, other defences one of 100. "corrected" is the share of samples that a defence moved.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import setting
import torch
from torch.nn.functional import cross_entropy

from taster import Batch, Guard, StepRecord
from taster.data import as_batch, load_images
from taster.defences import (
    adversarial_training_correction,
    agem_projection,
    anomaly_screen,
    clipping,
    discrepancy_screen,
    dsc,
    fat_correction,
    guard,
    influence_screen,
    mart_correction,
    mma_correction,
    probe_gate,
    quantile_clipping,
    trades_correction,
)

SIZE, PROBE = 100, 100
WARM_UP = 4
"""Rounds, as many as the longest period: none of them counts."""

Build = Callable[[Batch], Guard]
DEFENCES: dict[str, Build] = {
    "none": lambda _: Guard(),
    "clipping": lambda _: clipping(max_norm=1.0),
    "quantile_clipping": lambda _: quantile_clipping(),
    "probe_projection": lambda probe: agem_projection(probe),
    "discrepancy_screen": lambda probe: discrepancy_screen(probe, reference_model="earlier"),
    "anomaly_screen, gaussian": lambda probe: anomaly_screen(probe, detector="gaussian"),
    "influence_screen": lambda probe: influence_screen(probe),
    "dsc": lambda probe: dsc(probe, reference_model="earlier"),
    "dsc, granularity batch": lambda probe: dsc(probe, reference_model="earlier", granularity="batch"),
    "adversarial_training": lambda _: adversarial_training_correction(),
    "trades": lambda _: trades_correction(),
    "mart": lambda _: mart_correction(),
    "mma": lambda _: mma_correction(),
    "fat": lambda _: fat_correction(),
}

GATES: dict[str, Build] = {
    "probe_gate": lambda probe: probe_gate(probe),
    "probe_gate, half": lambda probe: probe_gate(probe, probe_bfloat16=True),
    "guard": lambda probe: guard(probe),
    "guard, every 4": lambda probe: guard(probe, check_every=4),
}


def main() -> None:
    parser = setting.parser(__doc__)
    parser.add_argument("--earlier", help="weights of the same model at an earlier epoch")
    parser.add_argument("--rounds", type=int, default=8, help="a multiple of 4")
    parser.add_argument("--probe", type=int, default=512, help="samples that gates have")
    parser.add_argument("--burn-in", type=int, default=0, help="plain steps before all that is measured")
    parser.add_argument("--only", nargs="+", choices=[*DEFENCES, *GATES], help="these alone")
    options = setting.begin(parser)
    images = load_images(options["data"])
    assert images.train is not None
    probe, large = (as_batch(images.train.select(torch.arange(size))) for size in (PROBE, options["probe"]))
    stream = [
        as_batch(images.train.select(torch.arange(options["probe"] + i * SIZE, options["probe"] + (i + 1) * SIZE)))
        for i in range(options["rounds"] + WARM_UP)
    ]
    learners = {
        name: setting.make_learner(options, images.shape, images.classes, build(large if name in GATES else probe))
        for name, build in {**DEFENCES, **GATES}.items()
        if options["only"] is None or name in options["only"]
    }
    plain = setting.make_learner(options, images.shape, images.classes)
    if options["burn_in"]:
        last = as_batch(images.train.select(torch.arange(len(images.train))[-SIZE * options["burn_in"] :]))
        plain.model.train()
        setting.burn_in(
            plain.model,
            plain.optimizer,
            lambda step: last.select(slice(step * SIZE, (step + 1) * SIZE)),
            options["burn_in"],
        )
        plain.optimizer.state.clear()
        for learner in learners.values():
            learner.model.load_state_dict(plain.model.state_dict())
    for learner in (plain, *learners.values()):
        learner.model.train()
    seconds: dict[str, list[float]] = {name: [] for name in ("plain", *learners)}
    records: dict[str, list[StepRecord]] = {name: [] for name in learners}
    for turn, batch in enumerate(stream):  # the first ones warm up
        start = time.perf_counter()
        plain.optimizer.zero_grad()
        cross_entropy(plain.model(batch.x), batch.y).backward()  # type: ignore[no-untyped-call]
        plain.optimizer.step()
        seconds["plain"].append(time.perf_counter() - start)
        for name, learner in learners.items():
            start = time.perf_counter()
            records[name].append(learner.step(batch))
            seconds[name].append(time.perf_counter() - start)
        print(f"round {turn} of {options['rounds']}", flush=True)
    rows = []
    print("\n| defence | seconds | over a plain step | corrected, % | dropped, % |\n|---|---:|---:|---:|---:|")
    for name, taken in seconds.items():
        own, times = records.get(name, [])[WARM_UP:], taken[WARM_UP:]
        ratios = [t / p for t, p in zip(times, seconds["plain"][WARM_UP:], strict=True)]
        row: dict[str, Any] = {
            "defence": name,
            "seconds": statistics.median(times),
            "ratio": statistics.mean(ratios) if name in GATES else statistics.median(ratios),
            "corrected": sum(r.corrected for r in own) / max(SIZE * len(own), 1),
            "dropped": sum(r.dropped for r in own) / max(SIZE * len(own), 1),
        }
        rows.append(row)
        shares = f"{100 * row['corrected']:.0f} | {100 * row['dropped']:.0f}"
        print(f"| {name} | {row['seconds']:.3f} | {row['ratio']:.2f} | {shares} |")
    setting.write(options, rounds=options["rounds"], batch=SIZE, probe=PROBE, gate_probe=options["probe"], rows=rows)


if __name__ == "__main__":
    main()
