"""Victims of many attacks in transfer learning: trained side by side, one after the other, and by the whole net.

    python benchmarks/transfer_victims.py [--data CIFAR10] [--victims 10] [--samples 500] [--epochs 60] [--rounds 5]
        [--out FILE]

Each set is the same but for 2 % of the samples, to which noise was added. "loop" trains one victim after the other on
features that are computed once for each; "together" is `taster.offline.train_victims`; "whole net" puts every batch
through the whole net, one epoch of one victim alone, as the others are like it. Times are medians of `--rounds` rounds
in turn after one to warm up, ratios medians of pairs. The net is `small_cnn` for 32x32 images, with random weights.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import torch
from setting import begin, draw, parser
from torch import nn

from taster import Batch
from taster.core.epochs import Epochs
from taster.core.training_settings import TrainingSettings
from taster.models import small_cnn
from taster.offline import NetTraining, train_victims


def make_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return small_cnn((3, 32, 32), 10, width=16, grid=4)


def seconds(work: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--victims", type=int, default=10)
    given.add_argument("--samples", type=int, default=500)
    given.add_argument("--epochs", type=int, default=60)
    given.add_argument("--rounds", type=int, default=5)
    options = begin(given)
    (clean,), _ = draw(options, options["samples"], 1)
    settings = TrainingSettings(epochs=options["epochs"], batch_size=50, learning_rate=0.1, weight_decay=0.0)
    training = NetTraining(make_net, settings, "transfer")
    sets = [clean]
    for seed in range(1, options["victims"]):
        draws = torch.Generator().manual_seed(seed)
        x, places = clean.x.clone(), torch.randperm(len(clean), generator=draws)[: len(clean) // 50]
        x[places] = (x[places] + 0.06 * torch.randn(x[places].shape, generator=draws)).clamp(0, 1)
        sets.append(Batch(x, clean.y))

    def whole_net() -> None:
        learner, order = training.learner(), Epochs(torch.ones(len(clean)), 50, torch.Generator())
        training.train_epoch(learner, clean, order, 0)

    times: dict[str, list[float]] = {"together": [], "loop": [], "whole net, one epoch": []}
    apart = 0.0
    for turn in range(options["rounds"] + 1):
        took_together, together = seconds(lambda: train_victims(training, sets))
        took_loop, loop = seconds(lambda: [training(some) for some in sets])
        took_whole, _ = seconds(whole_net)
        apart = max(
            float((a.outputs(clean.x) - b.outputs(clean.x)).abs().max()) for a, b in zip(together, loop, strict=True)
        )
        if turn:
            for name, took in zip(times, (took_together, took_loop, took_whole), strict=True):
                times[name].append(took)
    whole = [one * options["epochs"] * options["victims"] for one in times["whole net, one epoch"]]
    found = {
        "victims": options["victims"],
        "samples": options["samples"],
        "epochs": options["epochs"],
        "threads": options["threads"],
        "torch": torch.__version__,
        "seconds": {name: statistics.median(some) for name, some in times.items()},
        "loop over together": statistics.median(a / b for a, b in zip(times["loop"], times["together"], strict=True)),
        "whole net over loop": statistics.median(a / b for a, b in zip(whole, times["loop"], strict=True)),
        "largest difference of outputs": apart,
    }
    print(json.dumps(found, indent=1))
    if options["out"]:
        options["out"].write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
