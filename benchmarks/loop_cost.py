"""Cost and memory of the default guard by size of batch and probe, in three loops.

    OMP_NUM_THREADS=2 python benchmarks/loop_cost.py --out results/loop-cost.json

Loops: `small_cnn` and `resnet18` on images of 3 x 32 x 32 with SGD and momentum, and `transformer`, four layers of
width 256 over 64 tokens of 1,000, with AdamW, of which a second line trains a low-rank part alone. Baseline: the same
step without a guard, `zero_grad; loss.backward(); optimizer.step()`, in turn with the guarded one, in one process. The
learning rate is 0 and the running statistics stand still, so that everything is computed and nothing is refused: it is
the cost of honest steps.
Times are medians of `--rounds`; a check at every step, and at every fourth with its share of the cost. Bytes are
counted, not sampled: of the copy that a refusal goes back to and of all snapshots, as multiples of the model's
parameters.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import taster
from taster.models import MODELS


class Transformer(nn.Module):
    """Logits over a vocabulary for each place of a sequence, [n, length, vocabulary]."""

    def __init__(self, vocabulary: int = 1000, width: int = 256, layers: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        out: Tensor = self.head(self.layers(self.embedding(tokens), mask=mask, is_causal=True))
        return out


class LowRank(nn.Module):
    """A linear layer whose weight is frozen, with a product of two thin matrices beside it that is trained."""

    def __init__(self, base: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


def token_loss(output: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(output.flatten(0, 1), y.flatten())


def build(
    name: str, device: torch.device
) -> tuple[nn.Module, torch.optim.Optimizer, Callable[[Tensor, Tensor], Tensor]]:
    torch.manual_seed(0)
    if name in MODELS:
        model = MODELS[name]((3, 32, 32), 10).to(device)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0
        return model, torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9), cross_entropy
    model = Transformer()
    if name == "transformer, low rank":
        model.requires_grad_(False)
        for layer in model.layers.layers:
            layer.linear1, layer.linear2 = LowRank(layer.linear1), LowRank(layer.linear2)
    model.to(device)
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0), token_loss


def samples(name: str, n: int, seed: int, device: torch.device) -> taster.Batch:
    g = torch.Generator().manual_seed(seed)
    if name in MODELS:
        return taster.Batch(torch.rand(n, 3, 32, 32, generator=g), torch.randint(0, 10, (n,), generator=g)).to(device)
    tokens = torch.randint(0, 1000, (n, 65), generator=g)
    return taster.Batch(tokens[:, :-1], tokens[:, 1:]).to(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def nbytes(tensors: Iterator[Tensor] | list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def measure(name: str, batch: int, probe: int, rounds: int, device: torch.device) -> dict[str, object]:
    x = samples(name, batch, 1, device)
    plain_model, plain_optimizer, loss = build(name, device)

    def plain() -> None:
        plain_optimizer.zero_grad()
        loss(plain_model(x.x), x.y).backward()  # type: ignore[no-untyped-call]
        plain_optimizer.step()

    model, optimizer, loss = build(name, device)
    guard = taster.guard(samples(name, probe, 2, device), task=None if name in MODELS else "tokens")
    learner = taster.Learner(model, optimizer, loss, guard)
    for _ in range(2):
        plain()
        learner.step(x)
    plain_seconds, guarded_seconds = [], []
    for _ in range(rounds):
        plain_seconds.append(seconds(plain, device))
        guarded_seconds.append(seconds(lambda: learner.step(x), device))
    assert learner.counters["rejected"] + learner.counters["salvaged"] == 0
    base, guarded = statistics.median(plain_seconds), statistics.median(guarded_seconds)
    (checked,) = guard.gates
    source: Any = checked._measure.source  # type: ignore[attr-defined]
    gate = statistics.median(seconds(lambda: source.measure(learner.view()), device) for _ in range(3))
    whole = nbytes(list(model.parameters()))
    snapshots = learner.snapshots
    kept = [snapshots.at(step) for step in snapshots.steps] if snapshots is not None else []
    held = sum(
        nbytes(list(s.params.values()))
        + nbytes(list(s.buffers.values()))
        + nbytes(
            [v for o in s.optimizers for entry in o["state"].values() for v in entry.values() if isinstance(v, Tensor)]
        )
        for s in kept
    )
    return {
        "loop": name,
        "batch": batch,
        "probe": probe,
        "plain_seconds": base,
        "guarded_ratio": guarded / base,
        "guarded_ratio_every_4": (guarded - 0.75 * gate) / base,
        "parameters_mib": whole / 2**20,
        "backup_of_parameters": learner.state.backup.nbytes / whole,
        "snapshots": len(kept),
        "snapshots_of_parameters": held / whole,
    }


def main() -> None:
    torch.backends.mha.set_fastpath_enabled(False)  # it looks for the weights of plain linear layers
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", nargs="+", default=["small_cnn", "resnet18", "transformer", "transformer, low rank"])
    parser.add_argument("--batches", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--probes", nargs="+", type=int, default=[128, 512, 2048])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    device = torch.device(given.device)
    rows = []
    for name in given.loops:
        for batch in given.batches:
            for probe in given.probes:
                rows.append(measure(name, batch, probe, given.rounds, device))
                print(json.dumps(rows[-1]), flush=True)
    found = {
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name()
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "rows": rows,
    }
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
