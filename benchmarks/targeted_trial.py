"""One trial of a targeted recipe, and how near its targets came to the wanted class.

    python benchmarks/targeted_trial.py --seed 20 [--recipe gradient-matching-small] [--attacks noise gradient_matching]
        [--set KEY=VALUE ...]

A hit is one bit. The margin, the wanted class's logit minus the greatest other one, also tells near from far. A line of
JSON for each attack.
"""

from __future__ import annotations

import argparse
import json

import torch

from taster.experiments import read_recipe
from taster.experiments.running.tasks import seed_context
from taster.experiments.scenarios.offline_attack import craft
from taster.experiments.scenarios.offline_training import victim_training
from taster.offline import NetTraining, accuracy
from taster.perturbations.objectives import margin


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--recipe", default="gradient-matching-small")
    given.add_argument("--seed", type=int, required=True)
    given.add_argument("--attacks", nargs="+", default=["noise", "gradient_matching"])
    given.add_argument("--set", nargs="*", default=[], dest="values")
    options = given.parse_args()
    torch.set_num_threads(1)
    recipe = read_recipe(options.recipe, options.values)
    context = seed_context(recipe, options.seed)
    training = victim_training(context, None)
    assert isinstance(training, NetTraining)
    for label in options.attacks:
        entry = next(entry for entry in recipe.attack if entry.label == label)
        crafted = craft(context, entry, None, recipe.defence[0])
        assert crafted.target is not None
        view = training(crafted.dataset.samples)
        logits = view.outputs(crafted.target.x)
        line = {
            "seed": options.seed,
            "attack": label,
            "hit": bool((logits.argmax(1) == crafted.target.y).all()),
            "margin": -float(margin(logits, crafted.target.y).mean()),
            "accuracy": accuracy(view, context.batches["test"]),
            "poisoned": int(crafted.dataset.poisoned.sum()),
            "seconds_attack": crafted.seconds,
        }
        print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in line.items()}))


if __name__ == "__main__":
    main()
