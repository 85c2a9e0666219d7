"""Unlearnable clusters: noise for images whose labels nobody knows yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.surrogate import net_fits, trained
from taster.attacks.unlearnable.perturbation_net import PerturbationNetSettings, perturbation_net
from taster.attacks.unlearnable.set_noise import NoiseAttack, SetNoise, noise_attack
from taster.core.epochs import Epochs
from taster.core.threat import threat
from taster.core.view import View
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import settings_group, validate_settings

_NAME = "unlearnable_clusters"


@settings_group
class ClusterSettings(PerturbationNetSettings):
    """How images are divided into clusters, and each cluster is perturbed.

    Attributes:
        width: channels of the first layer of the nets that make the noise; the others have as many or twice as many.
        net_learning_rate: of Adam, which trains them.
        clusters: p.
        passes: over the samples of each cluster.
        layer: whose output the features are; None takes the input of the last linear layer.
        surrogate_epochs: of training on the attacker's own samples before. None: as many as the training has.
    """

    clusters: Annotated[int, Field(ge=2)] = 10
    passes: PositiveCount = 20
    layer: str | None = None
    surrogate_epochs: PositiveCount | None = None


@threat(
    "indiscriminate",
    "availability",
    "grey box",
    "universal",
    "generative",
    "before training",
    note="One perturbation a cluster, made without the labels of the samples that it protects.",
)
@validate_settings
def unlearnable_clusters(
    *, perturbation: PerturbationSettings = PerturbationSettings(), cluster: ClusterSettings = ClusterSettings()
) -> NoiseAttack:
    """One perturbation for each cluster of images, which takes all of the cluster to the middle of another.

        μ_1 … μ_p     centres of the features φ(x), by k-means
        min over ξ_c of Σ_{x in cluster c} ‖φ(x + g(z_c; ξ_c)) − μ_{c+1 mod p}‖²

    The same δ_c = g(z_c; ξ_c) for all of a cluster, made by a net of its own from a random image z_c, gathers what was
    spread out; another cluster's centre breaks what clusters have to do with classes. φ are the features of a net
    that was trained on the attacker's own samples (`DatasetKnowledge.own`), beginning where the victim's training
    does: with trained weights in modes "fine_tune" and "transfer", else with random ones. With several trainings
    clusters are those of the first, and the sum goes over all. Labels of the protected samples are not looked at.

    Args:
        perturbation: see `taster.attacks.PerturbationSettings`; the share is of the training set.
        cluster: see `taster.attacks.unlearnable.unlearnable_clusters.ClusterSettings`.

    Raises (when it poisons):
        AttackError: for samples that are no images of finite floats, a share that is no sample, fewer samples than
            clusters, and the training of an estimator or one that diverges.
        ModelError: for a layer that the net does not have.

    Source: Zhang et al. 2023 ("Unlearnable clusters: towards label-agnostic unlearnable examples"). Their code compares
        features by the Kullback-Leibler divergence of their softmax and takes those of a large pre-trained net.
    """

    def make(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
        fits, own = net_fits(knowledge, _NAME), noise.own.x
        if len(own) < cluster.clusters:
            raise AttackError(f"{_NAME}: clusters: got {cluster.clusters} for {len(own)} samples, wanted no more")
        views = [trained(fit, knowledge.own, knowledge.generator, cluster.surrogate_epochs) for fit in fits]
        found = [features(view, own, cluster.layer) for view in views]
        members = k_means(found[0], cluster.clusters, knowledge.generator)
        values = torch.zeros_like(own)
        for c in range(cluster.clusters):
            goals = [rows[members == (c + 1) % cluster.clusters].mean(0) for rows in found]
            inside = members == c
            values[inside] = _gather(own[inside], views, goals, cluster, noise.ball, knowledge.generator)
        noise.set(values)

    return noise_attack(_NAME, perturbation, make)


def k_means(rows: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """The cluster of each row, int64 [n], by k-means with four starts; none is empty.

    Args:
        rows: [n, d], with at least as many different ones as clusters.
        clusters: how many.
        generator: of the starts.

    Raises:
        AttackError: for fewer different rows than clusters.
    """
    from sklearn.cluster import KMeans  # slow to import, and only needed here

    different = len(torch.unique(rows, dim=0))
    if different < clusters:
        raise AttackError(f"{_NAME}: clusters: got {clusters} for features of {different} values, wanted no more")
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    found = KMeans(clusters, n_init=4, random_state=seed).fit_predict(rows.double().cpu().numpy())
    return torch.from_numpy(found).to(rows.device, torch.int64)


def features(view: View, x: Tensor, layer: str | None = None, chunk: int = 1000) -> Tensor:
    """Features of many samples [n, ...], [n, d], in chunks and without a graph."""
    with torch.no_grad():
        return torch.cat([view.features(part, layer)[0] for part in torch.split(x, chunk)])


def spread(views: Sequence[View], x: Tensor, goals: Sequence[Tensor], layer: str | None) -> Tensor:
    """The mean squared distance of samples' features from one point, summed over nets; differentiable in x.

    Args:
        views: of the nets.
        x: [n, ...].
        goals: the point for each net, [d].
        layer: see `View.features`.
    """
    each = [(view.features(x, layer)[0] - goal).square().sum(1).mean() for view, goal in zip(views, goals, strict=True)]
    return torch.stack(each).sum()


def _gather(
    x: Tensor,
    views: Sequence[View],
    goals: Sequence[Tensor],
    settings: ClusterSettings,
    ball: LpBall,
    generator: torch.Generator,
) -> Tensor:
    """The perturbation [1, c, h, w] that takes a cluster's samples nearest to a point of each net's features."""
    net = perturbation_net(x, settings.width, ball, generator, _NAME)
    z = torch.rand(x[:1].shape, generator=generator, device=generator.device).to(x)
    optimizer = torch.optim.Adam(net.parameters(), settings.net_learning_rate)
    order = Epochs(torch.ones(len(x)), 128, generator)
    for _ in range(settings.passes):
        for places in order:
            part = x[places.to(x.device)]
            optimizer.zero_grad()
            torch.autograd.backward(spread(views, ball.project(part + net(z), part), goals, settings.layer))
            optimizer.step()
    with torch.no_grad():
        made: Tensor = net(z)
    return made
