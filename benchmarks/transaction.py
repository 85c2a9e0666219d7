"""Cost of a guarded step with an empty guard over a plain one: transaction, checks and record.

    python benchmarks/transaction.py [--model resnet18] [--rounds 15] [--precision float32]

Baseline: `zero_grad; loss.backward(); optimizer.step()` on the same batch, in turn with the guarded step, one of each a
round. Prints JSON with medians in seconds, their ratio, and the share of the transaction by itself.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics

import torch
from launches import seconds
from torch.nn.functional import cross_entropy

from taster import Learner
from taster.core.functional_model import Precision, autocast
from taster.core.objective import to_float32
from taster.models import MODELS


def measure(name: str, rounds: int, precision: Precision, device: torch.device) -> dict[str, object]:
    torch.manual_seed(0)
    models = [MODELS[name]((3, 32, 32), 10).to(device) for _ in range(2)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4) for m in models]
    learner = Learner(models[0], optimizers[0], cross_entropy, precision=precision)
    x, y = torch.rand(100, 3, 32, 32, device=device), torch.randint(0, 10, (100,), device=device)

    def plain() -> None:
        optimizers[1].zero_grad()
        with autocast(device, precision):
            output = models[1](x)
        cross_entropy(to_float32(output), y).backward()  # type: ignore[no-untyped-call]
        optimizers[1].step()

    for _ in range(2):
        plain()
        learner.step(x, y)
    plain_seconds, guarded_seconds, copies = [], [], []
    for _ in range(rounds):
        plain_seconds.append(seconds(plain))
        guarded_seconds.append(seconds(lambda: learner.step(x, y)))
        copies.append(seconds(learner.state.backup.save))
    base = statistics.median(plain_seconds)
    return {
        "model": name,
        "precision": precision,
        "batch": 100,
        "rounds": rounds,
        "plain_s": base,
        "guarded_s": statistics.median(guarded_seconds),
        "ratio": statistics.median(g / p for g, p in zip(guarded_seconds, plain_seconds, strict=True)),
        "copy_s": statistics.median(copies),
        "copy_share": statistics.median(copies) / base,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="resnet18")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(json.dumps(measure(options.model, options.rounds, options.precision, device), indent=1))


if __name__ == "__main__":
    main()
