"""pGAN on two digits: harm against what an outlier detector sees, over α; and the three clouds in a plane.

    python benchmarks/pgan_clouds.py --data MNIST [--classes 3 5] [--train 1000] [--share 0.25] [--seeds 3]
        [--steps 1500] [--alphas 0 0.1 ...] [--distinct 1 5 ...] [--out FILE.json] [--figure FILE.png]

Poison is labelled as the second class. The victim is a net of 64 hidden units on `--train` samples of both classes; the
attacker has as many of his own, and another net's first weights. Controls, all with as many inserted samples under the
same label: images of the first class ("wrong labels"), uniform noise, genuine samples of the second class. "seen" is
the share of the poison that lies further from its fifth nearest of 500 trusted samples of its class than 95 % of other
genuine samples of the class do (after Paudice et al. 2018). "spread" is the mean squared distance of the poison from
its mean over that of the trusted samples: 0 for a generator that makes one image. `--distinct` adds poisons that are
collapsed by construction: images of the first class, of which only so many are distinct, each repeated.
The plane is that of the two greatest principal components of the clean set; the figure is of the first seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from taster import Batch
from taster.attacks import DatasetKnowledge, pgan
from taster.attacks.dataset.pgan import PGANSettings
from taster.core.training_settings import TrainingSettings
from taster.data import as_batch, load_images
from taster.models import mlp
from taster.offline import NetTraining
from taster.utils.seeds import generator

NEIGHBOURS = 5


def make_net(shape: tuple[int, ...], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return mlp(shape, 2, hidden=[64])


def distance(x: Tensor, trusted: Tensor) -> Tensor:
    """To the fifth nearest of the trusted samples, [n]."""
    return torch.cdist(x.flatten(1), trusted.flatten(1)).topk(NEIGHBOURS, largest=False).values[:, -1]


def of_two(samples: Batch, classes: list[int]) -> Batch:
    """The samples of two classes, labelled 0 and 1."""
    kept = samples.select((samples.y[:, None] == torch.tensor(classes)).any(1))
    return Batch(kept.x, (kept.y == classes[1]).to(torch.int64))


def scatter(x: Tensor) -> float:
    """The mean squared distance of samples from their mean."""
    return float((x - x.mean(0)).flatten(1).square().sum(1).mean())


class Trial:
    """One seed: its samples, its victim, and what each poison comes to.

    Args:
        pool, test: both digits, labelled 0 and 1.
        train: samples of victim and attacker each.
        seed: of everything.
    """

    def __init__(self, pool: Batch, test: Batch, train: int, seed: int) -> None:
        order = torch.randperm(len(pool), generator=generator(seed, "split"))
        self.clean, self.own = pool.select(order[:train]), pool.select(order[train : 2 * train])
        rest = pool.select(order[2 * train :])
        genuine = rest.x[rest.y == 1]
        self._trusted, self.spare = genuine[:500], genuine[1000:]
        self._limit = float(distance(genuine[500:1000], self._trusted).quantile(0.95))
        self._test, self._seed = test, seed

    def fit(self, offset: int) -> NetTraining:
        """The training of a net, with first weights and an order that the offset tells apart."""
        shape, first = tuple(self.clean.x.shape[1:]), offset + 100 * self._seed
        settings = TrainingSettings(epochs=20, batch_size=50, learning_rate=0.05)
        return NetTraining(lambda number: make_net(shape, first + number), settings, seed=first)

    def craft(self, game: PGANSettings) -> Tensor:
        """The inserted samples of pGAN."""
        draws = generator(self._seed, f"pgan {game.alpha}")
        known = DatasetKnowledge(2, self.own, (self.fit(10_000),), draws)
        found: Tensor = pgan(game=game)(self.clean, known).samples.x
        return found[len(self.clean) :]

    def measure(self, name: str, made: Tensor) -> dict[str, Any]:
        """What the victim comes to with these samples under the second label, and how many are seen."""
        labels = torch.ones(len(made), dtype=torch.int64)
        samples = Batch(torch.cat([self.clean.x, made]), torch.cat([self.clean.y, labels]))
        wrong = self.fit(0)(samples).outputs(self._test.x).argmax(1) != self._test.y
        row = {
            "poison": name,
            "seed": self._seed,
            "error": 100 * float(wrong.float().mean()),
            "error on the first class": 100 * float(wrong[self._test.y == 0].float().mean()),
            "seen": 100 * float((distance(made, self._trusted) > self._limit).float().mean()) if len(made) else None,
            "spread": scatter(made) / scatter(self._trusted) if len(made) else None,
        }
        print(json.dumps(row), flush=True)
        return row


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--data", required=True)
    given.add_argument("--classes", type=int, nargs=2, default=[3, 5])
    given.add_argument("--train", type=int, default=1000)
    given.add_argument("--share", type=float, default=0.25)
    given.add_argument("--steps", type=int, default=1500)
    given.add_argument("--alphas", type=float, nargs="*", default=[0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
    given.add_argument("--distinct", type=int, nargs="*", default=[])
    given.add_argument("--seeds", type=int, default=3)
    given.add_argument("--out", type=Path)
    given.add_argument("--figure", type=Path)
    options = given.parse_args()
    torch.set_num_threads(1)
    images = load_images(options.data)
    assert images.train is not None
    assert images.test is not None
    pool, test = (of_two(as_batch(part), options.classes) for part in (images.train, images.test))
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        trial = Trial(pool, test, options.train, seed)
        count, clean, own = int(options.share * options.train), trial.clean, trial.own
        wrong = own.x[own.y == 0][:count]
        noise = torch.rand(count, *clean.x.shape[1:], generator=generator(seed, "controls"))
        poisons = {
            "none": clean.x[:0],
            "wrong labels": wrong,
            "uniform noise": noise,
            "genuine": trial.spare[:count],
        }
        for distinct in options.distinct:
            poisons[f"wrong labels, {distinct} distinct"] = wrong[torch.arange(count) % distinct]
        for alpha in options.alphas:
            game = PGANSettings(poison_fraction=options.share, target_class=1, alpha=alpha, steps=options.steps)
            poisons[f"α = {alpha}"] = trial.craft(game)
        rows += [trial.measure(name, made) for name, made in poisons.items()]
        if not seed and options.figure:
            draw(clean, poisons, options.classes, options.figure)
    if options.out:
        options.out.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")
    for name in dict.fromkeys(row["poison"] for row in rows):
        same = [row for row in rows if row["poison"] == name]
        keys = [key for key in ("error", "error on the first class", "seen", "spread") if same[0][key] is not None]
        print(name, "; ".join(f"{key} {mean_and_deviation([row[key] for row in same])}" for key in keys))


def mean_and_deviation(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def draw(clean: Batch, clouds: dict[str, Tensor], classes: list[int], path: Path) -> None:
    """A panel for each α: both classes and the poison, in the plane of the clean set."""
    flat = clean.x.flatten(1)
    axes_of = torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[:2].T
    shown = [name for name in clouds if name.startswith("α")]
    figure = Figure(figsize=(10.5, 2.9), layout="constrained")
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True)
    for axes, name in zip(panels, shown, strict=True):
        for rows, mark, color, label in (
            (clean.x[clean.y == 0], "o", "#7fb2e5", str(classes[0])),
            (clean.x[clean.y == 1], "o", "#e5b27f", str(classes[1])),
            (clouds[name], "x", "#c0392b", f"poison, labelled {classes[1]}"),
        ):
            at = (rows.flatten(1) - flat.mean(0)) @ axes_of
            axes.scatter(
                at[:, 0], at[:, 1], s=6 if mark == "o" else 14, marker=mark, c=color, linewidths=0.8, label=label
            )
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    panels[0].legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
