"""How long noise for n images takes: ours beside the loop as it is usually written.

    python benchmarks/unlearnable_noise.py [--data CIFAR10] [--images 512] [--steps 10] [--width 16] [--rounds 5]
        [--threads 1] [--out FILE]

One pass of error-minimising noise for each image by PGD on a fixed net, in batches of 128. Baseline: noise in a list by
image, put together for each batch; each step a forward pass and a backward pass, which also computes the gradients of
the weights. Both in turn, `--rounds` times after one to warm up; the ratio is the median of pairs. Both begin at the
clean images and end in the same noise but for rounding, which is checked.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster import Batch, Learner
from taster.attacks.unlearnable.set_noise import SetNoise
from taster.data import as_batch, load_images
from taster.models import small_cnn
from taster.perturbations.pgd import LpBall
from taster.perturbations.sample_gradient import cross_entropy_gradient

EPSILON, STEP, BATCH = 8 / 255, 0.8 / 255, 128


def plain_loop(net: nn.Module, images: Batch, steps: int) -> list[Tensor]:
    """The noise of each image, by the loop as it is usually written."""
    noise = [torch.zeros_like(x) for x in images.x]
    for start in range(0, len(images), BATCH):
        rows = range(start, min(start + BATCH, len(images)))
        x, y = images.x[rows.start : rows.stop], images.y[rows.start : rows.stop]
        delta = torch.stack([noise[i] for i in rows])
        for _ in range(steps):
            at = (x + delta).requires_grad_()
            net.zero_grad()
            torch.autograd.backward(cross_entropy(net(at), y))
            assert at.grad is not None
            delta = (delta - STEP * at.grad.sign()).clamp(-EPSILON, EPSILON)
            delta = ((x + delta).clamp(0, 1) - x).detach()
        for place, i in enumerate(rows):
            noise[i] = delta[place]
    return noise


def ours(learner: Learner, images: Batch, steps: int) -> Tensor:
    """The same, [n, ...]."""
    noise, view = SetNoise(images, torch.arange(len(images)), LpBall("linf", EPSILON)), learner.view()
    noise.ascend(lambda x, y: -cross_entropy_gradient(view, y)(x), steps=steps, step_size=STEP, batch_size=BATCH)
    values: Tensor = noise.values
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a data set; random 32x32 images without it")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.data:
        images = as_batch(load_images(options.data).train.select(torch.arange(options.images)))
    else:
        images = Batch(torch.rand(options.images, 3, 32, 32), torch.randint(10, (options.images,)))
    net = small_cnn((3, 32, 32), 10, width=options.width, grid=4).eval()
    learner = Learner(net, torch.optim.SGD(net.parameters(), lr=0.1), cross_entropy)
    pairs = []
    for number in range(options.rounds + 1):
        began = time.perf_counter()
        plain = plain_loop(net, images, options.steps)
        between = time.perf_counter()
        found = ours(learner, images, options.steps)
        pairs.append((between - began, time.perf_counter() - between))
        same = float((torch.stack(plain) - found).abs().lt(STEP / 2).float().mean())
        if same < 0.99:  # a sign at a gradient of 0 turns on rounding
            raise SystemExit(f"the two made other noise: {100 * same:.1f} % of values agree")
        if number:
            print(f"plain {pairs[-1][0]:.2f} s, ours {pairs[-1][1]:.2f} s")
    pairs = pairs[1:]
    record = {
        "plain_s": statistics.median(p for p, _ in pairs),
        "ours_s": statistics.median(o for _, o in pairs),
        "ratio": statistics.median(p / o for p, o in pairs),
        "images": options.images,
        "steps": options.steps,
        "width": options.width,
        "rounds": options.rounds,
        "threads": options.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(record))
    if options.out:
        options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
