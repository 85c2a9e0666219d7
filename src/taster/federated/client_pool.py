"""The clients of a federation: the samples of each, which are the attacker's, and who takes part in a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.data import Augment, Images, as_batch
from taster.errors import DataError
from taster.utils.seeds import generator


def iid_partition(samples: int, clients: int, draws: torch.Generator) -> list[Tensor]:
    """A random partition of all samples, as even as possible.

    Raises:
        DataError: for fewer samples than clients.
    """
    _check(samples, clients)
    return list(torch.tensor_split(torch.randperm(samples, generator=draws), clients))


def dirichlet_partition(y: Tensor, clients: int, alpha: float, draws: torch.Generator) -> list[Tensor]:
    """A partition whose proportions of each class are drawn from Dir(α): the smaller α, the fewer classes a client has.
    A client left without samples gets one from the client that has most.

    Args:
        y: labels [n].
        clients: N.
        alpha: α, above 0.
        draws: the generator.

    Raises:
        DataError: for fewer samples than clients, or an α that is not positive.

    Source: Hsu et al. 2019.
    """
    _check(len(y), clients)
    if not alpha > 0:
        raise DataError(f"alpha: got {alpha}, wanted a positive number")
    parts: list[list[Tensor]] = [[] for _ in range(clients)]
    for label in torch.unique(y.cpu()):
        members = (y.cpu() == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=draws)]
        # In float64 and logarithms, as a small α gives gammas that float32 cannot represent.
        proportions = _log_gamma(alpha, clients, draws).softmax(0)
        cuts = (proportions.cumsum(0) * len(members)).round().long()[:-1]
        for own, part in zip(parts, torch.tensor_split(members, cuts), strict=True):
            own.append(part)
    shares = [torch.cat(own) for own in parts]
    for i, share in enumerate(shares):
        if len(share) == 0:
            richest = max(range(clients), key=lambda j: len(shares[j]))
            shares[i], shares[richest] = shares[richest][:1], shares[richest][1:]
    return shares


def one_sample_partition(samples: int, clients: int, draws: torch.Generator) -> list[Tensor]:
    """One random sample for each client (Pang et al. 2021, Appendix C.1: "treat each data point as a client").

    Raises:
        DataError: for fewer samples than clients.
    """
    _check(samples, clients)
    return list(torch.randperm(samples, generator=draws)[:clients, None])


@dataclass(frozen=True, eq=False)
class Cohort:
    """The clients of a round and their samples.

    Attributes:
        clients: names.
        malicious: [m], which of them are the attacker's.
        batch: all their samples, client after client.
        counts: number of samples of each client.
    """

    clients: tuple[str, ...]
    malicious: Tensor
    batch: Batch
    counts: list[int]


class ClientPool:
    """All clients of a federation. Clients of a round and the samples of each are drawn by separate generators, so that
    changing one leaves the other as it was.

    Args:
        images: of all clients.
        partition: indices of each client's samples.
        clients_per_round: drawn without replacement.
        samples_per_round: how many of its samples a client draws for a round; None for all.
        malicious_fraction: fraction of each round's clients that are the attacker's, at least one client where it is
            above 0. The attacker's clients are the same in all rounds.
        seed: of all random numbers.
        augment: applied to the samples of a round.

    Raises:
        DataError: when more are to be drawn than there are, or a client has no samples.
    """

    def __init__(
        self,
        images: Images,
        partition: Sequence[Tensor],
        *,
        clients_per_round: int,
        samples_per_round: int | None = None,
        malicious_fraction: float = 0.0,
        seed: int = 0,
        augment: Augment | None = None,
    ) -> None:
        if not 0 < clients_per_round <= len(partition):
            raise DataError(
                f"got {clients_per_round} clients a round of {len(partition)}, wanted 1 to {len(partition)}"
            )
        if not 0 <= malicious_fraction <= 1:
            raise DataError(f"malicious_fraction: got {malicious_fraction}, wanted a number from 0 to 1")
        if any(len(share) == 0 for share in partition):
            raise DataError("got a client without samples, wanted at least one for each")
        self.names: tuple[str, ...] = tuple(f"client-{i}" for i in range(len(partition)))
        self._images = images
        self._shares = [share.cpu() for share in partition]
        self._samples = samples_per_round
        self._seed = seed
        self._augment = augment or Augment()
        self._draws = generator(seed, "clients of a round")
        self._changes = generator(seed, "clients' augmentation")
        self._own: dict[int, torch.Generator] = {}
        self._own_count = max(1, round(malicious_fraction * clients_per_round)) if malicious_fraction else 0
        self._others_count = clients_per_round - self._own_count
        in_all = max(self._own_count, round(malicious_fraction * len(partition)))
        in_all = min(in_all, len(partition) - self._others_count)
        order = torch.randperm(len(partition), generator=generator(seed, "malicious clients"))
        self._pools = (order[:in_all], order[in_all:])

    @property
    def num_malicious(self) -> int:
        """How many of each round's clients are the attacker's."""
        return self._own_count

    def draw(self) -> Cohort:
        """The clients of the next round, each with samples of its own."""
        chosen, malicious = self._choose()
        indices = [self._draw_of(client) for client in chosen]
        drawn = self._images.select(torch.cat(indices).to(self._images.x.device))
        batch = as_batch(Images(self._augment(drawn.x, self._changes), drawn.y))
        return self._invited(chosen, malicious, batch, [len(index) for index in indices])

    def draw_with_trigger(self, trigger: Batch) -> Cohort:
        """The clients of the next round, among whom the trigger batch is divided in order.

        Raises:
            DataError: when it has fewer samples than the round has clients.
        """
        chosen, malicious = self._choose()
        _check(len(trigger), len(chosen))
        counts = [len(part) for part in torch.tensor_split(torch.arange(len(trigger)), len(chosen))]
        return self._invited(chosen, malicious, trigger, counts)

    def _choose(self) -> tuple[list[int], Tensor]:
        parts = []
        for pool, count in zip(self._pools, (self._own_count, self._others_count), strict=True):
            parts.append(pool[torch.randperm(len(pool), generator=self._draws)[:count]])
        chosen = torch.cat(parts)
        malicious = torch.arange(len(chosen)) < self._own_count
        # Shuffled, so that a client's place tells nothing.
        order = torch.randperm(len(chosen), generator=self._draws)
        return chosen[order].tolist(), malicious[order]

    def _draw_of(self, client: int) -> Tensor:
        share = self._shares[client]
        if self._samples is None or self._samples >= len(share):
            return share
        own = self._own.setdefault(client, generator(self._seed, f"samples of client {client}"))
        return share[torch.randperm(len(share), generator=own)[: self._samples]]

    def _invited(self, chosen: list[int], malicious: Tensor, batch: Batch, counts: list[int]) -> Cohort:
        names = tuple(self.names[client] for client in chosen)
        return Cohort(names, malicious.to(batch.x.device), batch, counts)


def _log_gamma(alpha: float, count: int, draws: torch.Generator) -> Tensor:
    """Logarithms of draws from Gamma(α, 1), [count], each log Γ(α + 1) plus log U / α, for any α however small."""
    # Marsaglia and Tsang 2000, for a shape of at least 1.
    d = alpha + 1 - 1 / 3
    c = 1 / (9 * d) ** 0.5
    found = torch.full((count,), torch.nan, dtype=torch.float64)
    while bool((open_ := found.isnan()).any()):
        x = torch.randn(count, generator=draws, dtype=torch.float64)
        u = torch.rand(count, generator=draws, dtype=torch.float64)
        v = (1 + c * x) ** 3
        accepted = open_ & (v > 0) & (u.log() < 0.5 * x.square() + d - d * v + d * v.clamp_min(1e-300).log())
        found[accepted] = (d * v[accepted]).log()
    return found + torch.rand(count, generator=draws, dtype=torch.float64).log() / alpha


def _check(samples: int, clients: int) -> None:
    if not 0 < clients <= samples:
        raise DataError(f"got {samples} samples for {clients} clients, wanted at least one for each")
