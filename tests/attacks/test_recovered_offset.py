"""The recovered offset: the identities of the paper's threat models."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attacks.conftest import SIZE, clip, eval_learner, make_attack, round_knowledge, with_rows
from tests.conftest import tiny_learner

from taster import Phase
from taster.attacks import UpdateSettings
from taster.attacks.updates.recovered_offset import add_zero_sum_noise, recovered_offset
from taster.defences import clipping
from taster.federated import NamedClientUpdates, Server, mean, update_clipping


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_c1_any_fraction_of_clients_sets_the_mean(k: int) -> None:
    c = round_knowledge(k=k)
    target = torch.linspace(-3, 3, SIZE)
    row = recovered_offset(c, target)
    for rows in (
        row.expand(k, -1),
        add_zero_sum_noise(row, c.weights[c.malicious], 0.5, torch.Generator().manual_seed(1)),
    ):
        torch.testing.assert_close(mean(with_rows(c, rows), c.weights), target, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_c2_one_client_sets_the_clipped_aggregate(norm: str) -> None:
    victim, direct = (tiny_learner(guard=clipping(max_norm=0.3, norm=norm)) for _ in range(2))
    c = round_knowledge(k=1)
    target = torch.linspace(-3, 3, SIZE)
    names = tuple(map(str, range(8)))
    rows = recovered_offset(c, target).expand(1, -1)
    outcome = Server(victim).step(NamedClientUpdates(with_rows(c, rows), c.weights, names))
    assert outcome.record.gradient_norm_after is not None
    assert outcome.record.gradient_norm_before == pytest.approx(float(target.norm()), rel=1e-4)
    Server(direct).step(NamedClientUpdates(target[None], torch.ones(1), ("0",)))
    for a, b in zip(victim.model.parameters(), direct.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bound", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_c3_m_clients_relax_the_bound_m_times(k: int, bound: float) -> None:
    c = round_knowledge(k=k, even=True)
    target = torch.linspace(-3, 3, SIZE)
    honest = sum(clip(v, bound) for v in c.values[~c.malicious])
    missing = 8 * target - honest
    row = recovered_offset(c, target, UpdateSettings(server_clip_norm=bound))
    arrives = k * clip(row, bound)
    torch.testing.assert_close(arrives, clip(missing, k * bound), rtol=1e-4, atol=1e-5)
    if float(missing.norm()) >= k * bound:  # the paper's "mild condition that η is small": all send all that is missing
        torch.testing.assert_close(k * clip(missing, bound), clip(missing, k * bound))
    aggregate = update_clipping(max_norm=bound)(with_rows(c, row.expand(k, -1)), c.weights)
    torch.testing.assert_close(8 * aggregate, honest + arrives, rtol=1e-3, atol=1e-4)
    # And nothing that they could send comes nearer to the target.
    g = torch.Generator().manual_seed(0)
    best = float((8 * target - 8 * aggregate).norm())
    for _ in range(30):
        others = row + bound * torch.randn(k, SIZE, generator=g)
        got = update_clipping(max_norm=bound)(with_rows(c, others), c.weights)
        assert float((8 * target - 8 * got).norm()) >= best - 1e-3


@pytest.mark.parametrize("bound", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("k", [1, 5])
def test_c3_holds_for_the_linf_norm(k: int, bound: float) -> None:
    def bounded(v: torch.Tensor, most: float) -> torch.Tensor:
        return v * min(1.0, most / float(v.abs().max()))

    c = round_knowledge(k=k, even=True)
    target = torch.linspace(-3, 3, SIZE)
    honest = sum(bounded(v, bound) for v in c.values[~c.malicious])
    row = recovered_offset(c, target, UpdateSettings(server_clip_norm=bound, server_clip_norm_type="linf"))
    arrives = bounded(8 * target - honest, k * bound)
    torch.testing.assert_close(k * bounded(row, bound), arrives, rtol=1e-4, atol=1e-5)
    aggregate = update_clipping(max_norm=bound, norm="linf")(with_rows(c, row.expand(k, -1)), c.weights)
    torch.testing.assert_close(8 * aggregate, honest + arrives, rtol=1e-3, atol=1e-4)


@given(k=st.integers(2, 6), seed=st.integers(0, 1000), spread=st.floats(0.01, 2))
@settings(max_examples=25, deadline=None)
def test_random_vectors_keep_clients_apart_and_sum_to_zero(k: int, seed: int, spread: float) -> None:
    g = torch.Generator().manual_seed(seed)
    row, weights = torch.randn(40, generator=g), torch.rand(k, generator=g) + 0.1
    rows = add_zero_sum_noise(row, weights, spread, g)
    torch.testing.assert_close((weights / weights.sum()) @ rows, row, rtol=1e-3, atol=1e-4)
    assert len({tuple(r.tolist()) for r in rows}) == k
    lengths = torch.linalg.vector_norm(rows - row, dim=1).mean()
    assert float(lengths) == pytest.approx(spread * float(row.norm()), rel=1e-3)


def test_the_reversed_trigger_turns_the_mean_round() -> None:
    for k in (1, 4, 8):
        c = round_knowledge(k=k)
        campaign = make_attack("reverse_trigger", loss_scale=20.0)
        assert campaign.poison(c, eval_learner().view(), Phase.ACCUMULATE) is None
        rows = campaign.poison(c, eval_learner().view(), Phase.TRIGGER)
        torch.testing.assert_close(mean(with_rows(c, rows), c.weights), -20 * c.mean(), rtol=1e-3, atol=1e-3)
