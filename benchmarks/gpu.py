"""Everything that can be said of a GPU, by one command and in under four minutes, on images drawn here.

    python benchmarks/gpu.py [--model resnet18] [--batch 100] [--rounds 5] [--out FILE]

- correct: derivatives beside double backward in float64 on the CPU, a refused step bit for bit, and a learner that goes
  on from a saved state to the same bits, with deterministic kernels;
- crafting: seconds of each case of `derivatives.py`, written plainly in float32 and with TF32, and by each of ours, how
  many times faster ours are than the plain way with TF32, and the memory that each takes;
- steps: a step behind each guard or defence in plain steps, on a model that has learned, and the launches and waits of
  a plain, a guarded and an empty step, and of crafting, as CUDA's profiler sees them;
- training: images a second of one epoch, with crop and flip.

Rounds take turns over all that is compared, and ratios are medians over rounds. Where there is no GPU it says what it
would do; `--device cpu` does all of it there but for the profiler (--model small_cnn --batch 16 --rounds 1: a minute).
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import launches
import textbook
import torch
from torch.nn.functional import cross_entropy

import defences
import derivatives
import taster
from taster.core.training_settings import TrainingSettings
from taster.derivatives import DiffMethod, sign_agreement
from taster.models import MODELS
from taster.offline import NetTraining

WAYS = ("finite_difference", "finite_difference channels_last", "finite_difference bfloat16 channels_last")
"""Ours, in float32 with TF32 unless it says otherwise."""

CHECKED = ("step, plain", "step, cosines", "direction G")

BASELINE = "textbook, TF32"

Table = list[dict[str, Any]]


def synthetic(count: int, device: torch.device, seed: int = 0) -> taster.Batch:
    """Images of ten classes that a net learns in a few steps: a pattern of the class under noise, in [0, 1]."""
    g = torch.Generator().manual_seed(seed)
    patterns = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(99)).repeat_interleave(4, 2)
    y = torch.randint(0, 10, (count,), generator=g)
    x = 0.3 * patterns.repeat_interleave(4, 3)[y] + 0.7 * torch.rand(count, 3, 32, 32, generator=g)
    return taster.Batch(x, y).to(device)


def make(model: str, device: torch.device) -> torch.nn.Module:
    """The model with the same random weights each time, in eval mode."""
    torch.manual_seed(0)
    made: torch.nn.Module = MODELS[model]((3, 32, 32), 10).to(device).eval()
    return made


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Inside, float32 products may be rounded to TF32 or not, in convolutions and matrix products."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def peak(work: Callable[[], object], device: torch.device) -> float | None:
    """MiB that are taken on top of what is held; None on a CPU."""
    if device.type != "cuda":
        work()
        return None
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return (torch.cuda.max_memory_allocated(device) - held) / 2**20


def agreement(model: str, device: torch.device, ways: Sequence[str] = WAYS) -> Table:
    """How near each of our ways comes to double backward in float64 on the CPU, on batches of 8."""
    batches = [synthetic(8, torch.device("cpu"), seed) for seed in range(3)]
    exact = make(model, torch.device("cpu")).double()
    wide = [taster.Batch(part.x.double(), part.y) for part in batches]
    loss, params = derivatives.plain_loss(exact)
    clean, val, trigger = ((part.x, part.y) for part in wide)
    towards = [textbook.gradient(loss, params, *clean), textbook.direction(loss, params, val, trigger)]
    written = derivatives.baseline_cases(exact, wide, towards, hoisted=True)
    truth = {case: written[case]() for case in CHECKED}
    rows = []
    for way in ("double_backward", *ways):
        for fast in (False, True) if device.type == "cuda" else (False,):
            with tf32(fast):
                cases, _ = derivatives.own_cases(
                    make(model, device),
                    [part.to(device) for part in batches],
                    DiffMethod.parse(way),
                    [[v.float().to(device) for v in part] for part in towards],
                )
                for case in CHECKED:
                    found = cases[case]().double().cpu()
                    right = sign_agreement(found, truth[case])
                    rows.append({"case": case, "way": way, "tf32": fast, "signs right": round(float(right), 5)})
    return rows


def refused_step_leaves_no_trace(model: str, device: torch.device) -> bool:
    """Parameters, buffers and the optimizer's state before and after a step that a gate refuses."""
    net = make(model, device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    refuse = [False]

    def gate(change: taster.CandidateUpdate) -> taster.Verdict:
        return taster.reject("asked to") if refuse[0] else taster.COMMIT

    learner = taster.Learner(net, optimizer, cross_entropy, taster.Guard(gates=[gate]))
    learner.step(synthetic(16, device))
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()["state"]))
    refuse[0] = True
    record = learner.step(synthetic(16, device, 1))
    after = (net.state_dict(), optimizer.state_dict()["state"])
    return not record.verdict.committed and _same(before, after)


def resumed_learner_has_the_same_bits(model: str, device: torch.device, steps: int = 6) -> bool:
    """A guarded learner that is saved halfway, beside one that is not, with deterministic kernels."""

    def fresh() -> taster.Learner:
        net = make(model, device).train()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        return taster.Learner(net, optimizer, cross_entropy, taster.guard(synthetic(256, device, 7), seed=0))

    def run(learner: taster.Learner, numbers: range) -> None:
        for number in numbers:
            learner.step(synthetic(32, device, number))

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        whole, first, second = fresh(), fresh(), fresh()
        run(whole, range(steps))
        run(first, range(steps // 2))
        saved = io.BytesIO()
        torch.save(first.state_dict(), saved)
        saved.seek(0)
        second.load_state_dict(torch.load(saved, map_location=device))
        run(second, range(steps // 2, steps))
    finally:
        torch.use_deterministic_algorithms(before)
    return _same(whole.model.state_dict(), second.model.state_dict())


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def crafting(model: str, batch: int, rounds: int, device: torch.device) -> Table:
    """Seconds, gain over the plain way with TF32, and memory of every case and way."""
    batches = [synthetic(batch, device, seed) for seed in range(3)]
    plain = make(model, device)
    loss, params = derivatives.plain_loss(plain)
    clean, val, trigger = ((part.x, part.y) for part in batches)
    towards = [textbook.gradient(loss, params, *clean), textbook.direction(loss, params, val, trigger)]
    written = derivatives.baseline_cases(plain, batches, towards, hoisted=True)
    ways = {"textbook, float32": (written, False), BASELINE: (written, True)}
    for way in WAYS:
        ways[way] = (derivatives.own_cases(make(model, device), batches, DiffMethod.parse(way), towards)[0], True)
    rows: Table = []
    for case in derivatives.CASES:
        memory: dict[str, float | None] = {}
        for name, (cases, fast) in ways.items():  # warms up as well
            with tf32(fast):
                memory[name] = peak(cases[case], device)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, (cases, fast) in ways.items():
                with tf32(fast):
                    taken[name].append(launches.seconds(cases[case]))
        for name, times in taken.items():
            gain = statistics.median(base / own for base, own in zip(taken[BASELINE], times, strict=True))
            row = {"case": case, "way": name, "ms": round(1e3 * statistics.median(times), 2), "gain": round(gain, 2)}
            rows.append({**row, "MiB": None if memory[name] is None else round(memory[name] or 0.0, 1)})
    return rows


def steps(model: str, batch: int, rounds: int, device: torch.device) -> Table:
    """A step behind each guard and defence in plain steps, after 60 plain ones."""
    probe, large = synthetic(100, device, 7), synthetic(512, device, 8)
    names = ("none", "clipping", "dsc", "adversarial_training", "guard", "guard, every 4")
    learned = make(model, device).train()
    optimizer = torch.optim.SGD(learned.parameters(), lr=0.01, momentum=0.9)
    early = copy.deepcopy(learned.state_dict())
    for number in range(60):
        part = synthetic(batch, device, 100 + number)
        optimizer.zero_grad()
        cross_entropy(learned(part.x), part.y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if number == 20:
            early = copy.deepcopy(learned.state_dict())

    def learner(name: str) -> taster.Learner:
        build = {**defences.DEFENCES, **defences.GATES}[name]
        guard = build(large if name in defences.GATES else probe)
        net = make(model, device).train()
        snapshots = taster.SnapshotBuffer.for_rewind(guard.max_rewind) if guard.max_rewind else taster.SnapshotBuffer(0)
        made = taster.Learner(
            net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9), cross_entropy, guard, snapshots=snapshots
        )
        net.load_state_dict(early)
        snapshots.pin("earlier", made.snapshot())
        net.load_state_dict(learned.state_dict())
        return made

    learners = {name: learner(name) for name in names}
    taken: dict[str, list[float]] = {name: [] for name in ("plain", *names)}
    for number in range(4 * rounds + defences.WARM_UP):
        part = synthetic(batch, device, 300 + number)

        def plain(part: taster.Batch = part) -> None:
            optimizer.zero_grad()
            cross_entropy(learned(part.x), part.y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        taken["plain"].append(launches.seconds(plain))
        for name, own in learners.items():
            taken[name].append(launches.seconds(lambda own=own, part=part: own.step(part)))  # type: ignore[misc]
    rows = []
    for name in names:
        pairs = zip(taken[name][defences.WARM_UP :], taken["plain"][defences.WARM_UP :], strict=True)
        ratios = [own / base for own, base in pairs]
        # Steps of a guard are not all alike.
        middle = statistics.mean(ratios) if name in defences.GATES else statistics.median(ratios)
        rows.append({"defence": name, "plain steps": round(middle, 2)})
    return rows


def counts(model: str, device: torch.device) -> Table:
    """Launches and waits, as `launches.py` counts them and CUDA's profiler sees them."""
    rows = [
        {key: value for key, value in row.items() if key != "time_ratio"} for row in launches.measure(model, 1, device)
    ]
    return rows + list(launches.measure_crafting(model, device))


def training(model: str, count: int, device: torch.device) -> dict[str, Any]:
    """Images a second of the second of two epochs, so that nothing that is done once counts."""
    samples = synthetic(count, device, 5)
    settings = TrainingSettings(epochs=2, batch_size=100, learning_rate=0.05, crop=4, flip=True)
    ends: list[float] = []

    def ended(_: object) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ends.append(time.perf_counter())

    NetTraining(lambda _: make(model, device), settings).train(samples, taster.Guard(), on_epoch=ended)
    rate = count / (ends[1] - ends[0])
    return {"images": count, "images a second": round(rate), "40 epochs of 50,000, minutes": round(2e6 / rate / 60, 1)}


def show(title: str, rows: Table) -> None:
    """Prints a table of Markdown."""
    if not rows:
        return
    heads = list(dict.fromkeys(key for row in rows for key in row))
    print(f"\n{title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(str(row.get(head, '')) for head in heads)} |", flush=True)


def main() -> int:
    """Prints the tables, and leaves them in a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="resnet18")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=10_000, help="of the epoch that is timed")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, help="a file for the figures, as JSON")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("No GPU is here. With one this would measure:\n")
        print((__doc__ or "").split("\n\n")[2])
        return 0
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before anything is multiplied
    logging.getLogger("taster").setLevel(logging.ERROR)  # refusals are asked for
    device = torch.device(options.device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    found: dict[str, Any] = {
        "machine": machine,
        "torch": torch.__version__,
        "model": options.model,
        "batch": options.batch,
        "rounds": options.rounds,
    }
    print(f"{machine}, torch {torch.__version__}, {options.model}, batches of {options.batch}")
    began = time.perf_counter()
    found["agreement"] = agreement(options.model, device)
    show("Signs right, beside double backward in float64 on the CPU", found["agreement"])
    found["refused step leaves no trace"] = refused_step_leaves_no_trace(options.model, device)
    found["resumed learner has the same bits"] = resumed_learner_has_the_same_bits(options.model, device)
    for name in ("refused step leaves no trace", "resumed learner has the same bits"):
        print(f"{name}: {'yes' if found[name] else 'NO'}")
    found["crafting"] = crafting(options.model, options.batch, options.rounds, device)
    show(f"Crafting; gain over {BASELINE}", found["crafting"])
    found["steps"] = steps(options.model, options.batch, options.rounds, device)
    show("Steps", found["steps"])
    found["counts"] = counts(options.model, device)
    show("Launches and waits", found["counts"])
    found["training"] = training(options.model, options.images, device)
    show("Training", [found["training"]])
    found["seconds"] = round(time.perf_counter() - began, 1)
    print(f"\n{found['seconds']} s")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["refused step leaves no trace"] and found["resumed learner has the same bits"] else 1


if __name__ == "__main__":
    sys.exit(main())
