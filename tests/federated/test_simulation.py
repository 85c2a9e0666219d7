"""Clients: who has what, who is drawn; and whole rounds in one process."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner

from taster import Batch, Phase
from taster.attacks import (
    CraftingSettings,
    PerturbationSettings,
    UpdateAttack,
    label_flip,
    random_noise,
    vanilla_trigger,
)
from taster.client_gradients import ClientGradients
from taster.data import Images
from taster.errors import DataError
from taster.federated import (
    ClientPool,
    Server,
    Simulation,
    dirichlet_partition,
    iid_partition,
    krum,
    one_sample_partition,
)


def images(n: int = 120, classes: int = 3) -> Images:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 1, 6, 6), generator=g, dtype=torch.uint8)
    return Images(x, torch.randint(0, classes, (n,), generator=g))


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(seed=st.integers(0, 500), clients=st.integers(1, 40), alpha=st.sampled_from([1e-4, 0.1, 1.0, 100.0]))
@settings(max_examples=40, deadline=None)
def test_no_sample_has_two_clients_and_no_client_has_none(seed: int, clients: int, alpha: float) -> None:
    data = images()
    for shares in (
        iid_partition(120, clients, gen(seed)),
        dirichlet_partition(data.y, clients, alpha, gen(seed)),
        one_sample_partition(120, clients, gen(seed)),
    ):
        assert len(shares) == clients
        assert min(map(len, shares)) >= 1
        taken = torch.cat(shares)
        assert len(set(taken.tolist())) == len(taken)
    assert len(torch.cat(iid_partition(120, clients, gen(seed)))) == 120
    assert len(torch.cat(dirichlet_partition(data.y, clients, alpha, gen(seed)))) == 120
    assert [len(share) for share in one_sample_partition(120, clients, gen(seed))] == [1] * clients


def test_a_small_alpha_gives_clients_few_classes_and_a_large_one_all() -> None:
    y = torch.arange(3000) % 10

    def largest(alpha: float) -> float:
        shares = dirichlet_partition(y, 10, alpha, gen())
        return sum(float(y[s].bincount(minlength=10).max()) for s in shares) / 3000

    assert largest(0.01) > 0.7
    assert largest(1000.0) < 0.15
    # Dir(α): the share of one client in one class has mean 1/N and variance (1/N)(1 − 1/N) / (N α + 1).
    found = torch.tensor(
        [
            len([i for i in s if y[i] == 0]) / 300
            for seed in range(150)
            for s in dirichlet_partition(y, 10, 0.5, gen(seed))
        ]
    )
    assert float(found.mean()) == pytest.approx(0.1, abs=1e-3)
    assert float(found.var()) == pytest.approx(0.09 / 6, rel=0.15)


@pytest.mark.parametrize("malicious", [0.0, 0.2, 1.0])
def test_rounds_are_drawn_by_their_own_generators(malicious: float) -> None:
    data = images()

    def population(samples: int | None = 2) -> ClientPool:
        shares = iid_partition(120, 30, gen())
        return ClientPool(
            data, shares, clients_per_round=10, samples_per_round=samples, malicious_fraction=malicious, seed=3
        )

    one, other = population(), population(samples=3)
    his = set()
    for _ in range(6):
        a, b = one.draw(), other.draw()
        assert a.clients == b.clients  # how many samples each draws has no part in who is drawn
        assert len(set(a.clients)) == 10
        assert int(a.malicious.sum()) == one.num_malicious == round(malicious * 10)
        assert (a.counts, b.counts) == ([2] * 10, [3] * 10)
        his |= {name for name, bad in zip(a.clients, a.malicious.tolist(), strict=True) if bad}
        assert not his & {name for name, bad in zip(a.clients, a.malicious.tolist(), strict=True) if not bad}
    assert len(his) <= round(malicious * 30)
    first, second = population(), population()
    for _ in range(3):
        assert torch.equal(first.draw().batch.x, second.draw().batch.x)


def test_clients_draw_from_their_own_samples() -> None:
    data = images()
    shares = iid_partition(120, 12, gen())
    population = ClientPool(data, shares, clients_per_round=5, samples_per_round=4, seed=1)
    by_pixels = {tuple(data.x[i].flatten().tolist()): c for c, share in enumerate(shares) for i in share.tolist()}
    for _ in range(4):
        invited = population.draw()
        for name, part in zip(invited.clients, torch.split(invited.batch.x, invited.counts), strict=True):
            for row in (part * 255).round().to(torch.uint8):
                assert f"client-{by_pixels[tuple(row.flatten().tolist())]}" == name


def test_what_cannot_be_drawn_is_told() -> None:
    data, shares = images(), iid_partition(120, 10, gen())
    with pytest.raises(DataError, match="clients a round"):
        ClientPool(data, shares, clients_per_round=11)
    with pytest.raises(DataError, match="malicious"):
        ClientPool(data, shares, clients_per_round=5, malicious_fraction=1.5)
    with pytest.raises(DataError, match="without samples"):
        ClientPool(data, [*shares, torch.tensor([], dtype=torch.int64)], clients_per_round=5)
    for make in (iid_partition, one_sample_partition):
        with pytest.raises(DataError, match="for 121 clients"):
            make(120, 121, gen())
    with pytest.raises(DataError, match="alpha"):
        dirichlet_partition(data.y, 5, 0.0, gen())
    with pytest.raises(DataError, match="for 5 clients"):
        ClientPool(data, shares, clients_per_round=5).draw_with_trigger(tiny_batch(4))


def simulation(learner, campaign=None, malicious: float = 0.0, rule=None, statistics="recorded") -> Simulation:
    population = ClientPool(
        images(), one_sample_partition(120, 60, gen()), clients_per_round=12, malicious_fraction=malicious, seed=0
    )
    server = Server(learner) if rule is None else Server(learner, rule)
    return Simulation(server, population, ClientGradients(statistics), campaign or UpdateAttack())


def test_synchronized_one_sample_clients_are_online_learning() -> None:
    """Batch norm included: the weights, and what it records."""
    federated, online = tiny_learner(), tiny_learner()
    run, twin = simulation(federated, statistics="synchronized"), simulation(tiny_learner())
    online.model.train()
    for _ in range(8):
        outcome = run.round(Phase.ACCUMULATE)
        assert outcome.record.verdict.committed
        assert outcome.record.phase is Phase.ACCUMULATE
        online.step(twin.pool.draw().batch)
        for (name, a), b in zip(federated.model.state_dict().items(), online.model.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_recorded_statistics_stay_as_they_are() -> None:
    learner = tiny_learner()
    simulation(learner).round(Phase.ACCUMULATE)
    assert torch.equal(learner.model.bn.running_mean, torch.zeros(4))
    assert int(learner.model.bn.num_batches_tracked) == 0


def test_a_refused_round_leaves_batch_norm_as_it_was() -> None:
    from taster import Guard
    from taster.core.verdict import reject

    learner = tiny_learner(guard=Guard(gates=[lambda change: reject("no")]))
    before = full_state(learner)
    assert not simulation(learner, statistics="synchronized").round(Phase.ACCUMULATE).record.verdict.committed
    assert same_state(before, full_state(learner))


def test_only_the_attackers_rows_are_replaced() -> None:
    campaign = UpdateAttack.always(lambda c, view: torch.full_like(c.own, 7.0))
    honest, attacked = simulation(tiny_learner(), malicious=0.25), simulation(tiny_learner(), campaign, malicious=0.25)
    invited = attacked.pool.draw()
    a = honest.updates(honest.pool.draw(), Phase.TRIGGER)
    b = attacked.updates(invited, Phase.TRIGGER)
    assert bool((b.values[invited.malicious] == 7).all())
    assert torch.equal(a.values[~invited.malicious], b.values[~invited.malicious])
    assert a.clients == b.clients == invited.clients


def test_attacks_of_online_learning_poison_the_samples_of_the_attackers_clients() -> None:
    campaign = label_flip(gen())
    run, clean = simulation(tiny_learner(), campaign, malicious=0.5), simulation(tiny_learner(), malicious=0.5)
    invited = run.pool.draw()
    found, honest = run.updates(invited, Phase.ACCUMULATE), clean.updates(invited, Phase.ACCUMULATE)
    apart = (found.values - honest.values).abs().amax(1) > 1e-6
    assert torch.equal(apart, invited.malicious)
    settings = CraftingSettings(loss_scale=30.0, epsilon=0.0, pgd_steps=1, validation_size=5)
    trigger = vanilla_trigger(tiny_batch, gen(), crafting=settings)
    scaled = simulation(tiny_learner(), trigger, 0.5)
    rows = scaled.updates(invited, Phase.TRIGGER).values
    torch.testing.assert_close(rows[invited.malicious], 30 * honest.values[invited.malicious], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(rows[~invited.malicious], honest.values[~invited.malicious])
    noise = simulation(
        tiny_learner(), random_noise(gen(), perturbation=PerturbationSettings(epsilon=0.1)), 0.5
    ).updates(invited, Phase.ACCUMULATE)
    assert torch.equal((noise.values - honest.values).abs().amax(1) > 1e-7, invited.malicious)


def test_a_client_that_breaks_is_named_and_the_round_goes_on() -> None:
    campaign = UpdateAttack.always(lambda c, view: c.own * torch.nan)
    learner = tiny_learner()
    run = simulation(learner, campaign, malicious=0.25)
    outcome = run.round(Phase.ACCUMULATE)
    assert outcome.record.verdict.committed
    assert outcome.record.dropped == 3
    assert len(outcome.rejected_clients) == 3
    assert set(outcome.rejected_clients.values()) == {"sent NaN or infinity"}


def test_the_trigger_is_dealt_out_among_the_clients_of_its_round() -> None:
    trigger = tiny_batch(30)
    invited = simulation(tiny_learner()).pool.draw_with_trigger(trigger)
    assert torch.equal(invited.batch.x, trigger.x)
    assert sorted(invited.counts) == [2] * 6 + [3] * 6
    learner = tiny_learner()
    learner.model.eval()
    run = simulation(learner)
    twin = tiny_learner()
    twin.model.eval()
    run.round(Phase.TRIGGER, trigger)
    twin.step(Batch(trigger.x, trigger.y))
    for a, b in zip(learner.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_the_same_seeds_give_the_same_bits() -> None:
    found = []
    for _ in range(2):
        learner = tiny_learner()
        run = simulation(learner, label_flip(gen()), 0.25, krum(num_byzantine=3), "synchronized")
        for _ in range(4):
            run.round(Phase.ACCUMULATE)
        found.append(full_state(learner))
    assert same_state(*found)
