"""Perturbations of each sample put on other samples: of their class, of another class, or of another set."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.errors import AttackError


def within_classes(values: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Each sample gets the perturbation of a sample of its class, each perturbation once, [n, ...].

    Args:
        values: perturbations [n, ...], one a sample.
        labels: int64 [n].
        generator: of the order.

    Raises:
        AttackError: for other shapes.

    Source: Ren et al. 2023 ("Transferable unlearnable examples"), intra-class exchange.
    """
    _check(values, labels)
    return _exchanged(values, labels, {int(label): int(label) for label in torch.unique(labels)}, generator)


def between_classes(values: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """The samples of each class get the perturbations of the next class that there is, in random order, [n, ...].

    Where that class has fewer samples, its perturbations come again.

    Args:
        values: perturbations [n, ...], one a sample.
        labels: int64 [n].
        generator: of the order.

    Raises:
        AttackError: for other shapes, and labels of one class.

    Source: Ren et al. 2023, inter-class exchange.
    """
    _check(values, labels)
    names = [int(label) for label in torch.unique(labels)]
    if len(names) < 2:
        raise AttackError(f"got perturbations of class {names[0]} alone, wanted at least two classes to swap")
    return _exchanged(values, labels, dict(zip(names, names[1:] + names[:1], strict=True)), generator)


def interpolated(values: Tensor, labels: Tensor, new_labels: Tensor, generator: torch.Generator) -> Tensor:
    """Perturbations for the samples of another set, as mixtures λ δᵢ + (1 − λ) δⱼ of those that there are, [k, ...].

    Samples of a class that the old set has get mixtures of two perturbations of that class, with a λ drawn for each
    sample. Samples of any other class get mixtures of perturbations of two old classes, with these and a λ from 1/4 to
    3/4 drawn once for the class, so that new classes can be told apart as well. A mixture is as small as its parts, in
    every norm.

    Args:
        values: perturbations [n, ...], one a sample.
        labels: int64 [n].
        new_labels: of the other set, int64 [k].
        generator: of pairs and λ.

    Raises:
        AttackError: for other shapes, and new classes where the old set has one class alone.

    Source: Ren et al. 2023, who interpolate within and between classes; how pairs and λ are drawn is ours.
    """
    _check(values, labels)
    members = {int(label): (labels == label).nonzero().flatten() for label in torch.unique(labels)}
    names = sorted(members)
    found = values.new_empty(len(new_labels), *values.shape[1:])
    for label in torch.unique(new_labels).tolist():
        places = (new_labels == label).nonzero().flatten()
        if label in members:
            first = second = label
            share = torch.rand(len(places), generator=generator)
        else:
            if len(names) < 2:
                raise AttackError(
                    f"got samples of class {label}, and perturbations of class {names[0]} alone, wanted at least two "
                    "classes to mix a new one of"
                )
            first, second = (names[place] for place in torch.randperm(len(names), generator=generator)[:2].tolist())
            share = (0.25 + 0.5 * torch.rand(1, generator=generator)).expand(len(places))
        one, two = (_drawn(members[name], len(places), generator) for name in (first, second))
        mixed = share.to(values).reshape(-1, *[1] * (values.dim() - 1))
        found[places] = mixed * values[one] + (1 - mixed) * values[two]
    return found


def _exchanged(values: Tensor, labels: Tensor, source: dict[int, int], generator: torch.Generator) -> Tensor:
    """Perturbations of the class that each class has its own from."""
    found = torch.empty_like(values)
    for label, other in source.items():
        places, own = (labels == label).nonzero().flatten(), (labels == other).nonzero().flatten()
        order = own[torch.randperm(len(own), generator=generator).to(own.device)]
        found[places] = values[order.repeat(-(-len(places) // len(own)))[: len(places)]]
    return found


def _drawn(places: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return places[torch.randint(len(places), (count,), generator=generator).to(places.device)]


def _check(values: Tensor, labels: Tensor) -> None:
    if labels.shape != values.shape[:1] or not len(labels):
        raise AttackError(
            f"got perturbations {list(values.shape)} with labels {list(labels.shape)}, wanted one perturbation a "
            "sample, and a label for each"
        )
