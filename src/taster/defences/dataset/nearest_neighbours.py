"""Sanitation by nearest neighbours: a sample whose neighbours have another label is removed or given theirs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.core.fitting import Classifier
from taster.core.threat import countermeasure
from taster.defences.dataset.readings import Space, check_space, fitted_rows
from taster.defences.dataset.run_checks import check_run, kept_weights
from taster.defences.dataset_defence import DatasetDefence, RobustTraining, TrainingRun
from taster.errors import DefenceError
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings

_NAME = "nearest_neighbour_sanitation"

_AT_ONCE = 2**22
"""Distances in memory at a time."""


@countermeasure(
    "sanitization",
    "indiscriminate availability",
    "targeted integrity",
    note="Paudice et al. are after flipped labels, Peri et al. after poison with a target.",
)
@validate_settings
def nearest_neighbour_sanitation(
    *,
    neighbours: PositiveCount = 10,
    agreement: Annotated[float, Field(ge=0, le=1)] = 0.0,
    action: Literal["remove", "relabel"] = "remove",
    space: Space = "auto",
    layer: str | None = None,
) -> DatasetDefence | RobustTraining:
    """Looks for samples whose label is not the most frequent one among their k nearest neighbours.

    A sample stays if its own label is among the most frequent ones, or if the most frequent one has less than the share
    `agreement` of the neighbours. The sample itself is none of its neighbours. Distances are Euclidean; of samples at
    the same distance, as it is computed, those that come first are nearer. Of several most frequent labels the smallest
    one is given to a sample that is relabelled. Costs n² distances, and one fit unless `space` is "input".

    Args:
        neighbours: k, below the number of samples.
        agreement: the share of the neighbours that must have one label before a sample with another is suspected. 0
            leaves it to the plurality (Peri et al.); Paudice et al. take 0.5 and more.
        action: "remove" leaves suspected samples out (Peri et al.); "relabel" gives them the label of their neighbours
            and trains on all (Paudice et al.). Relabelled ones have weight 0 in the result: their own label was left
            out.
        space: "features" of a model that was fitted to all samples (Peri et al.), "input" (Paudice et al.), or "auto":
            features if the model is a net.
        layer: the layer of the net whose output is used; None takes the input of the last linear layer.

    Raises:
        SettingError: for a layer with the space "input".

    Raises (when called):
        BatchError, LabelError, DataError: see `taster.defences.dataset.run_checks.check_run`.
        DefenceError: for as many neighbours as samples or more, features of a model that is no net, and if no two
            classes are left.

    Source: Paudice, Muñoz-González and Lupu 2018, Algorithm 2; Peri et al. 2020 (Deep k-NN).
    """
    check_space(space, layer, _NAME)

    def suspected(run: TrainingRun) -> tuple[Tensor, Tensor]:
        samples = check_run(run, _NAME)
        if neighbours >= len(samples):
            raise DefenceError(f"{_NAME}: got {neighbours} neighbours of {len(samples)} samples, wanted fewer")
        rows = fitted_rows(run, space, layer, _NAME)(samples.x)
        votes = neighbour_votes(rows, samples.y, run.classes, neighbours)
        most = votes.max(1)
        own = votes.gather(1, samples.y[:, None])[:, 0]
        enough = agreement * neighbours - 1e-9  # a little lower, so that rounding does not decide
        return (own < most.values) & (most.values >= enough), most.indices

    def weigh(run: TrainingRun) -> Tensor:
        return kept_weights(~suspected(run)[0], run.samples.y, _NAME)

    def train(run: TrainingRun) -> tuple[Classifier, Tensor]:
        changed, label = suspected(run)
        relabelled = replace(run.samples, y=label.where(changed, run.samples.y))
        return run.fit(relabelled, seed=run.seed), (~changed).to(torch.float32)

    return DatasetDefence(weigh) if action == "remove" else RobustTraining(train)


def neighbour_votes(rows: Tensor, labels: Tensor, classes: int, neighbours: int) -> Tensor:
    """How many of the k nearest neighbours of each sample have each label, int64 [n, classes].

    Args:
        rows: [n, d]; in float64 distances are exact enough for equal samples to be equally far.
        labels: int64 [n].
        classes: number of classes.
        neighbours: k, below n.
    """
    # Around their mean, so that little is lost to cancellation.
    centered = rows - rows.mean(0)
    one_hot = torch.nn.functional.one_hot(labels, classes).to(torch.float32)
    size = max(1, _AT_ONCE // len(rows))
    found = []
    for start in range(0, len(rows), size):
        distances = torch.cdist(centered[start : start + size], centered)
        place = torch.arange(len(distances), device=rows.device)
        distances[place, start + place] = torch.inf
        found.append((_nearest(distances, neighbours).to(one_hot.dtype) @ one_hot).long())
    return torch.cat(found)


def _nearest(distances: Tensor, neighbours: int) -> Tensor:
    """Which samples are the nearest, bool [m, n]: exactly k in each row, of equally far ones the first."""
    last = distances.topk(neighbours, 1, largest=False).values.amax(1, keepdim=True)
    nearer, level = distances < last, distances == last
    room = neighbours - nearer.sum(1, keepdim=True)
    return nearer | (level & (level.cumsum(1) <= room))
