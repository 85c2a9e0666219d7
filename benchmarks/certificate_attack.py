"""How tight certificates over partitions are: an attacker who knows the division and the training, against each image.

    python benchmarks/certificate_attack.py --data MNIST [--partitions 60] [--train 3000] [--targets 20] [--seeds 3]
        [--copies 3] [--noise 8] [--penalty 1] [--out FILE]

Deep Partition Aggregation of ridge regressions on the features of `stroke_features.py`, which are hashed. For each
test image, which the attacker knows, he tries 1, 2, ... pieces of poison in every part at once: as no model depends
on another part, one training of the ensemble says which votes each would turn. "insert" adds copies of the image
under the label of the class with the next most votes, with grey values changed by up to --noise until the hash puts
them where they are wanted; "flip" gives that label to the samples of a part that are closest to the target among
those of its class. The cheapest parts are taken, and the ensemble is trained again with these alone, which must turn
the image: then the number of poisoned samples is above the radius, or the certificate is wrong. He stops at the
radius and one. The accuracy that is left under a budget counts images that are right and not turned with as many; it
cannot be below what is certified.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path
from typing import Any

import torch
from stroke_features import one_by_one
from torch import Tensor

from taster import Batch
from taster.data import load_images
from taster.data.partitions import hash_buckets, hash_partition
from taster.defences.training import (
    CertifiedEnsemble,
    deep_partition_aggregation,
    ridge_training,
    votes_of,
)
from taster.defences.training.vote_certificates import fewest_buckets, margins, vote_counts
from taster.utils.seeds import generator

CLASSES = 10


def trained(samples: Batch, args: argparse.Namespace) -> CertifiedEnsemble:
    aggregation = deep_partition_aggregation(partitions=args.partitions)
    return aggregation(samples.x, samples.y, ridge_training(penalty=args.penalty), classes=CLASSES)


def features(images: Tensor) -> Tensor:
    """What the base models see of images in bytes, [n, 512]."""
    return one_by_one(images, deskew=True, edge=True)


def copies_in(image: Tensor, buckets: Tensor, args: argparse.Namespace, draw: torch.Generator) -> Tensor:
    """Features of copies of an image, one for each bucket of the list, whose hashes put them there."""
    left, found = buckets.tolist(), dict[int, Tensor]()
    while len(found) < len(left):
        noise = torch.randint(-args.noise, args.noise + 1, (64, *image.shape), generator=draw)
        tried = features((image + noise).clamp(0, 255).to(torch.uint8))
        for candidate, bucket in zip(tried, hash_buckets(tried, None, args.partitions).tolist(), strict=True):
            if bucket in left:
                place = left.index(bucket)
                found[place], left[place] = candidate, -1
    return torch.stack([found[place] for place in range(len(left))])


def nearest_members(clean: Batch, seen: Tensor, label: int, count: int, parts: int) -> list[Tensor]:
    """Of each part the places of its samples of a class, the closest to a target [1, d] first, at most as many."""
    distances = (clean.x - seen).norm(dim=1)
    found = []
    for part in hash_partition(clean.x, clean.y, parts).members:
        own = part[clean.y[part] == label]
        found.append(own[distances[own].argsort()[:count]])
    return found


def poisoned(
    clean: Batch, image: Tensor, kind: str, label: int, wanted: int, parts: Tensor, n: int, args: argparse.Namespace
) -> tuple[Batch, int]:
    """The set with n pieces of poison in each of these parts, and how many they are."""
    if kind == "insert":
        draw = generator(0, f"copies {n}")  # the same copies for a part whichever others are poisoned
        every = copies_in(image, torch.arange(args.partitions).repeat_interleave(n), args, draw)
        x = every.view(args.partitions, n, -1)[parts].flatten(0, 1)
        return Batch(torch.cat([clean.x, x]), torch.cat([clean.y, torch.full((len(x),), wanted)])), len(x)
    members = nearest_members(clean, features(image[None]), label, n, args.partitions)
    places = torch.cat([members[part] for part in parts.tolist()])
    y = clean.y.clone()
    y[places] = wanted
    return Batch(clean.x, y), len(places)


def attack(
    clean: Batch, image: Tensor, before: Tensor, radius: int, kind: str, args: argparse.Namespace
) -> dict[str, Any]:
    """The fewest pieces of poison that turned an image, by its votes [1, m] on the clean set."""
    counts = vote_counts(before, CLASSES)
    label = int(counts.argmax())
    ahead = margins(counts, torch.tensor([label]))[0]
    wanted = int(ahead.argmin())
    everywhere, seen = torch.arange(args.partitions), features(image[None])
    best: dict[str, Any] = {"size": None}
    for n in range(1, args.copies + 1):
        samples, _ = poisoned(clean, image, kind, label, wanted, everywhere, n, args)
        after = votes_of(trained(samples, args).models.scores(seen))
        closed = lead(before, label, wanted) - lead(after, label, wanted)
        needed = int(fewest_buckets(ahead[wanted : wanted + 1] + 1, closed.clamp_min(0))[0])
        if needed > args.partitions or (best["size"] is not None and needed * n >= best["size"]):
            continue
        parts = closed[0].argsort(descending=True, stable=True)[:needed]
        samples, size = poisoned(clean, image, kind, label, wanted, parts, n, args)
        if int(trained(samples, args).predict(seen).labels[0]) != label:
            best = {"size": size, "in_each_part": n}
        if best["size"] is not None and best["size"] <= radius + 1:
            break
    return best


def lead(votes: Tensor, label: int, other: int) -> Tensor:
    """Of each vote for one class over another, -1, 0 or 1, [n, m]."""
    return (votes == label).long() - (votes == other).long()


def measure(train: Batch, test: Batch, seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each target, each another image, on training images that are drawn by the seed."""
    draw = generator(seed, "certificate attack")
    drawn = train.select(torch.randperm(len(train), generator=draw)[: args.train])
    clean = Batch(features(drawn.x), drawn.y)
    targets = test.select(torch.randperm(len(test), generator=draw)[: args.targets])
    ensemble = trained(clean, args)
    seen = features(targets.x)
    found = ensemble.predict(seen)
    rows = []
    for i in range(args.targets):
        right = bool(found.labels[i] == targets.y[i])
        row: dict[str, Any] = {"seed": seed, "right": right, "radius": int(found.radius[i])}
        if right:
            before = votes_of(ensemble.models.scores(seen[i : i + 1]))
            row |= {kind: attack(clean, targets.x[i], before, row["radius"], kind, args) for kind in ("insert", "flip")}
        rows.append(row)
        print(row, flush=True)
    return rows


def left(rows: list[dict[str, Any]], budget: int, kind: str | None) -> float:
    """The accuracy in percent that is certified (None), or that an attack of a kind leaves."""
    stay = [
        row["right"]
        and (row["radius"] >= budget if kind is None else row[kind]["size"] is None or row[kind]["size"] > budget)
        for row in rows
    ]
    return 100 * statistics.fmean(stay)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="MNIST, as a folder or a name on the hub")
    parser.add_argument("--partitions", type=int, default=60)
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=3)
    parser.add_argument("--noise", type=int, default=8)
    parser.add_argument("--penalty", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = load_images(args.data)
    if images.test is None:
        parser.error("--data: got a data set without test images")
    train, test = Batch(images.train.x, images.train.y), Batch(images.test.x, images.test.y)
    by_seed = [measure(train, test, seed, args) for seed in range(args.seeds)]
    budgets = range(0, args.partitions // 2 + 1, 5)
    table = {
        name: {budget: [round(left(rows, budget, kind), 1) for rows in by_seed] for budget in budgets}
        for name, kind in (("certified", None), ("insert", "insert"), ("flip", "flip"))
    }
    rows = [row for part in by_seed for row in part if row["right"]]
    turned = {kind: [row for row in rows if row[kind]["size"] is not None] for kind in ("insert", "flip")}
    summary = {
        kind: {
            "right": len(rows),
            "turned": len(some),
            "within_the_radius": sum(row[kind]["size"] <= row["radius"] for row in some),
            "median_over_radius_and_one": round(
                statistics.median(row[kind]["size"] / (row["radius"] + 1) for row in some), 3
            ),
            "tight": sum(row[kind]["size"] == row["radius"] + 1 for row in some),
        }
        for kind, some in turned.items()
    }
    print(json.dumps(summary, indent=1))
    print(json.dumps(table))
    if args.out:
        settings = {key: value for key, value in vars(args).items() if key not in ("out", "data")}
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        content = {"settings": settings, "versions": versions, "summary": summary, "left": table, "rows": by_seed}
        args.out.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
