"""Seconds to one poisoned sample by the methods of Yang et al. 2017, and what it does, for each group size.

    python benchmarks/one_poisoned_sample.py yang-table-1 --data MNIST [--seeds 3] [--groups 1000 100 10] [--out FILE]

A model burnt in as the recipe says, one sample a seed, all methods begun at the same sample under the same wrong label;
a generator's training before is left out. For each seed the methods take turns. Differences take `--differences`
iterations, as each of them is an update and a pass of the group for every element of the sample; so what is compared is
seconds an iteration, and for the methods that run to their end the whole. Seconds are those of this process on the
processor, which do not depend on what else runs on the machine; medians over seeds, and how many times faster than the
differences of the same group.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from taster import Batch, Phase
from taster.attacks import OnlineAttack, direct_gradient, generative
from taster.core.view import View
from taster.data import as_batch
from taster.data.stream import Sampler
from taster.experiments import read_recipe
from taster.experiments.recipes.schema import Recipe
from taster.experiments.running.tasks import seed_context
from taster.experiments.scenarios.builders import make_guard, make_learner, stream_learning_rate
from taster.experiments.scenarios.burn_in import burn_in
from taster.experiments.scenarios.burn_in_cache import cached_burn_in
from taster.experiments.scenarios.crafting_replay import replay, summarize_replay
from taster.utils.allocator import retain_freed_memory
from taster.utils.seeds import generator
from taster.utils.settings import group_settings

TESTED = 2000
"""Test images that the accuracy is of."""

METHODS: dict[str, dict[str, Any]] = {
    "differences": {"gradient": "finite_differences"},
    "exact": {},
    "first order": {"gradient": "first_order"},
    "generative": {},
    "generative, unrolled": {"policy": "unrolled"},
}


def make(method: str, recipe: Recipe, sampler: Sampler, seed: int, group: int, differences: int) -> OnlineAttack:
    settings: dict[str, Any] = {**METHODS[method], "group_size": group}
    draws, rate = generator(seed, "attack"), stream_learning_rate(recipe)
    if not method.startswith("generative"):
        if method == "differences":
            settings["iterations"] = differences
        return direct_gradient(sampler, draws, rate, **group_settings(direct_gradient, settings))
    own = next(entry.settings for entry in recipe.attack if entry.name == "generative")
    kept = {key: own[key] for key in ("hidden", "pretraining_size", "pretraining_epochs")}
    return generative(sampler, draws, rate, **group_settings(generative, settings | kept))


def measured(campaign: OnlineAttack, clean: Batch, view: View, rate: float, test: Batch) -> dict[str, Any]:
    campaign.poison(clean, view, Phase.TRIGGER)
    assert campaign.trace is not None
    found = summarize_replay(replay(campaign.trace, view, rate, test))
    return {**found, "an_iteration": found["processor"] / max(1, found["iterations"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="whose data, model and burn-in to take")
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--groups", type=int, nargs="+", default=[1000, 100, 10])
    parser.add_argument("--differences", type=int, default=2, help="iterations of theirs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    retain_freed_memory()
    recipe = read_recipe(options.recipe, [f"data.source={options.data}"]).with_compute(device="cpu", threads=1)
    rate = stream_learning_rate(recipe)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        context = seed_context(recipe, seed)
        roles = context.roles
        state = cached_burn_in(context, lambda: burn_in(context))  # noqa: B023 (called at once)
        probe = as_batch(roles["probe"].select(torch.arange(1)))
        view = make_learner(context, state, make_guard(context, recipe.defence[0], probe)).view()
        clean, test = (
            as_batch(roles["trigger"].select(torch.arange(1))),
            as_batch(roles["test"].select(torch.arange(TESTED))),
        )
        for group in options.groups:
            for method in METHODS:
                sampler = Sampler(roles["validation"], generator(seed, "validation"))
                campaign = make(method, recipe, sampler, seed, group, options.differences)
                found = measured(campaign, clean, view, rate, test)
                rows.append({"seed": seed, "group": group, "method": method, **found})
                print(rows[-1], flush=True)
    print(
        "\n| group | method | iterations | seconds | an iteration | times faster an iteration | loss | accuracy |\n"
        "|---:|---|---:|---:|---:|---:|---:|---:|"
    )
    for group in options.groups:
        base = median(rows, group, "differences", "an_iteration")
        for method in METHODS:
            own = {key: median(rows, group, method, key) for key in ("iterations", "processor", "loss", "accuracy")}
            step = median(rows, group, method, "an_iteration")
            cells = [f"{own['iterations']:g}", f"{own['processor']:.3f}", f"{step:.5f}", f"{base / step:.0f}"]
            cells += [f"{own['loss']:.2f}", f"{own['accuracy']:.1f}"]
            print(f"| {group} | {method} | " + " | ".join(cells) + " |")
    if options.out:
        about = {"recipe": recipe.name, "model": recipe.model.name, "torch": torch.__version__}
        options.out.write_text(json.dumps({**about, "differences": options.differences, "rows": rows}, indent=1) + "\n")


def median(rows: list[dict[str, Any]], group: int, method: str, key: str) -> float:
    return statistics.median(float(row[key]) for row in rows if row["group"] == group and row["method"] == method)


if __name__ == "__main__":
    main()
