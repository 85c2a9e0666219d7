"""A collision beside a convex and a bullseye polytope, in a plane of the victim's features.

    python benchmarks/feature_plane.py --data MNIST [--recipe targeted-small] [--seed 0] [--out FILE.png]

The plane of all panels: from the mean of the wanted class towards the target, and the direction in which samples of
both classes vary most beside it. Everything is as in the recipe; the victim is trained on the clean set, as its
features are frozen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from taster.experiments import read_recipe
from taster.experiments.running.tasks import seed_context
from taster.experiments.scenarios.burn_in import burn_in
from taster.experiments.scenarios.offline_attack import craft
from taster.experiments.scenarios.offline_training import victim_training
from taster.offline import NetTraining

ATTACKS = ("feature_collision", "convex_polytope", "bullseye_polytope")


def plane(origin: Tensor, toward: Tensor, others: Tensor) -> Tensor:
    """Two orthonormal directions [d, 2]: towards a point, and that of the greatest variance of others beside it."""
    first = (toward - origin) / (toward - origin).norm()
    rest = others - others.mean(0)
    rest = rest - (rest @ first)[:, None] * first
    second = torch.linalg.svd(rest, full_matrices=False).Vh[0]
    return torch.stack([first, second], 1)


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--data", required=True)
    given.add_argument("--recipe", default="targeted-small")
    given.add_argument("--seed", type=int, default=0)
    given.add_argument("--out", type=Path, default=Path("results/figures/targeted-plane.png"))
    options = given.parse_args()
    torch.set_num_threads(1)
    recipe = read_recipe(options.recipe, [f"data.source={options.data}"])
    context = seed_context(recipe, options.seed)
    state = burn_in(context)
    training, clean = victim_training(context, state), context.training_set
    assert isinstance(training, NetTraining)
    view = training(clean)

    def features(x: Tensor) -> Tensor:
        with torch.no_grad():
            return view.features(x)[0]

    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    panels = figure.subplots(1, len(ATTACKS), sharex=True, sharey=True)
    for axes, name in zip(panels, ATTACKS, strict=True):
        entry = next(entry for entry in recipe.attack if entry.label == name)
        crafted = craft(context, entry, state, context.recipe.defence[0])
        assert crafted.target is not None
        wanted, goal = int(crafted.target.y[0]), features(crafted.target.x)
        of_target = int(context.batches["validation"].y[_place(context.batches["validation"].x, crafted.target.x[0])])
        own, other = features(clean.x[clean.y == wanted]), features(clean.x[clean.y == of_target])
        axis = plane(own.mean(0), goal[0], torch.cat([own, other]))
        bad = crafted.dataset.poisoned
        for rows, mark, color, label in (
            (own, "o", "#7fb2e5", "wanted class"),
            (other, "o", "#e5b27f", "class of the target"),
            (features(crafted.dataset.samples.x[bad]), "x", "#1f4e8c", "poisons"),
            (goal, "*", "#c0392b", "target"),
        ):
            at = (rows - own.mean(0)) @ axis
            size = {"o": 10, "x": 28, "*": 120}[mark]
            axes.scatter(at[:, 0], at[:, 1], s=size, marker=mark, c=color, linewidths=1.0, label=label)
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=7)
    panels[0].legend(fontsize=7, frameon=False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=90)


def _place(x: Tensor, sample: Tensor) -> int:
    """Where a sample lies in x."""
    return int((x == sample).flatten(1).all(1).nonzero()[0])


if __name__ == "__main__":
    main()
