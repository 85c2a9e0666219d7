"""Attacks on updates: Algorithm 2 written out, the threat models' identities, the field's standards by definition."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import tiny_batch, tiny_learner
from torch.nn.functional import cross_entropy

from taster import Batch, Phase
from taster.attacks import UPDATE_ATTACKS, RoundKnowledge, UpdateAttack, UpdateBudget, accumulative_updates
from taster.attacks.updates.alie import max_deviations
from taster.attacks.updates.recovered_offset import add_zero_sum_noise, recovered_offset
from taster.client_gradients import ClientGradients
from taster.core.param_vectors import flatten, unflatten
from taster.defences import clipping
from taster.derivatives import Derivatives, DiffMethod, inner
from taster.errors import AttackError
from taster.federated import NamedClientUpdates, Server, mean, update_clipping

SIZE = 63  # of the tiny net's parameters


def learner():  # type: ignore[no-untyped-def]
    found = tiny_learner()
    found.model.eval()
    return found


def draw(count: int) -> Batch:
    return tiny_batch(count, seed=77)


def made(name: str, **options):  # type: ignore[no-untyped-def]
    g = torch.Generator().manual_seed(0)
    if name == "accumulative_updates":
        options = {"validation_size": 10, **options}
        return UPDATE_ATTACKS[name](tiny_batch(12, seed=5), draw, g, **options)
    return UPDATE_ATTACKS[name](*([g] if name in ("reverse_trigger", "gaussian_updates", "mimic") else []), **options)


def collusion(m: int = 8, k: int = 2, d: int = SIZE, seed: int = 0, even: bool = False) -> RoundKnowledge:
    g = torch.Generator().manual_seed(seed)
    weights = torch.ones(m) if even else torch.rand(m, generator=g) + 0.5
    return RoundKnowledge(torch.randn(m, d, generator=g), weights, torch.randperm(m, generator=g) < k)


def with_rows(c: RoundKnowledge, rows: torch.Tensor) -> torch.Tensor:
    values = c.values.clone()
    values[c.malicious] = rows
    return values


def clip(vector: torch.Tensor, bound: float) -> torch.Tensor:
    return vector * min(1.0, bound / float(vector.norm()))


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_c1_without_a_clip_any_share_of_clients_makes_the_mean_what_it_likes(k: int) -> None:
    c = collusion(k=k)
    target = torch.linspace(-3, 3, SIZE)
    row = recovered_offset(c, target)
    for rows in (
        row.expand(k, -1),
        add_zero_sum_noise(row, c.weights[c.malicious], 0.5, torch.Generator().manual_seed(1)),
    ):
        torch.testing.assert_close(mean(with_rows(c, rows), c.weights), target, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_c2_where_the_aggregate_is_clipped_one_client_has_the_clipped_target_applied(norm: str) -> None:
    victim, direct = (tiny_learner(guard=clipping(max_norm=0.3, norm=norm)) for _ in range(2))
    c = collusion(k=1)
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
def test_c3_where_updates_are_clipped_m_clients_relax_the_bound_to_m_times_it(k: int, bound: float) -> None:
    c = collusion(k=k, even=True)
    target = torch.linspace(-3, 3, SIZE)
    honest = sum(clip(v, bound) for v in c.values[~c.malicious])
    missing = 8 * target - honest
    row = recovered_offset(c, target, server_clip_norm=bound)
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
def test_c3_holds_where_the_greatest_single_value_is_bounded_too(k: int, bound: float) -> None:
    def bounded(v: torch.Tensor, most: float) -> torch.Tensor:
        return v * min(1.0, most / float(v.abs().max()))

    c = collusion(k=k, even=True)
    target = torch.linspace(-3, 3, SIZE)
    honest = sum(bounded(v, bound) for v in c.values[~c.malicious])
    row = recovered_offset(c, target, server_clip_norm=bound, norm_type="linf")
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


@pytest.mark.parametrize("eta", [None, 0.2])
@pytest.mark.parametrize("mode", ["optimized", "reversed", "clean"])
def test_algorithm_2_step_by_step(mode: str, eta: float | None) -> None:
    """Against the algorithm written out with automatic differentiation, all clients the attacker's."""
    lam, alpha, clients = 0.3, 0.5, 4
    victim, twin = learner(), learner()
    trigger = tiny_batch(12, seed=5)
    attack = accumulative_updates(
        trigger,
        draw,
        torch.Generator().manual_seed(0),
        Derivatives(DiffMethod("double_backward")),
        accumulation_weight=lam,
        trigger_update=mode,  # type: ignore[arg-type]
        trigger_step_size=alpha,
        max_norm=eta,
        noise_scale=0.0,
        normalize="none",
        validation_size=10,
    )

    def project(row: torch.Tensor) -> torch.Tensor:
        return row if eta is None else clip(row, eta)

    def slope(params: dict[str, torch.Tensor], batch: Batch, graph: bool = False) -> torch.Tensor:
        out = torch.func.functional_call(twin.model, params, (batch.x,))
        loss = cross_entropy(out, batch.y)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(params.values()), create_graph=graph)])

    shares = [Batch(trigger.x[i : i + 3], trigger.y[i : i + 3]) for i in range(0, 12, 3)]
    params = {n: p.detach().clone().requires_grad_() for n, p in twin.model.named_parameters()}
    poisoned = [project(-slope(params, s)) for s in shares]
    server, gradients = Server(victim), ClientGradients()
    for t in range(3):
        batch = tiny_batch(8, seed=t)
        values, _ = gradients(victim.view(), batch.x, batch.y, [2] * clients)
        c = RoundKnowledge(values, torch.ones(clients), torch.ones(clients, dtype=torch.bool))
        rows = attack.poison(c, victim.view(), Phase.ACCUMULATE)
        params = {n: p.detach().clone().requires_grad_() for n, p in twin.model.named_parameters()}
        honest = torch.stack([slope(params, Batch(batch.x[i : i + 2], batch.y[i : i + 2])) for i in range(0, 8, 2)])
        if mode == "optimized":
            poisoned = [project(p - alpha * slope(params, s)) for p, s in zip(poisoned, shares, strict=True)]
        own = slope(params, draw(10), graph=True)
        other = slope(params, trigger, graph=True) if mode == "clean" else torch.stack(poisoned).mean(0)
        towards = torch.autograd.grad((own * other).sum(), list(params.values()))
        h = honest.mean(0) + lam * torch.cat([v.flatten() for v in towards])
        assert rows is not None
        torch.testing.assert_close(rows, project(h).expand(clients, -1), rtol=1e-3, atol=1e-5)
        for model in (victim, twin):
            server = Server(model)
            server.step(NamedClientUpdates(rows, torch.ones(clients), tuple("abcd")))
    values, _ = gradients(victim.view(), trigger.x, trigger.y, [3] * clients)
    c = RoundKnowledge(values, torch.ones(clients), torch.ones(clients, dtype=torch.bool))
    rows = attack.poison(c, victim.view(), Phase.TRIGGER)
    if mode == "clean":
        assert rows is None  # clients strike with what they would send anyway
    else:
        torch.testing.assert_close(rows, torch.stack(poisoned), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("normalize", ["none", "global", "per_tensor"])
def test_the_direction_is_that_in_which_the_inner_product_falls(normalize: str) -> None:
    """A small step along H lowers ⟨∇L(S_val), P⟩ by as much as its length squared says, where λ is all there is."""
    victim = learner()
    attack = accumulative_updates(
        tiny_batch(12, seed=5),
        draw,
        torch.Generator().manual_seed(0),
        Derivatives(DiffMethod("double_backward")),
        accumulation_weight=1.0,
        honest_term=False,
        normalize=normalize,  # type: ignore[arg-type]
        noise_scale=0.0,
        trigger_update="reversed",
        validation_size=10,
    )
    c = RoundKnowledge(torch.zeros(4, SIZE), torch.ones(4), torch.ones(4, dtype=torch.bool))
    h = attack.poison(c, victim.view(), Phase.ACCUMULATE)[0]
    p = attack.poison(c, victim.view(), Phase.TRIGGER).mean(0)
    like = victim.view().trainable
    along, aim = ({n: v.double() for n, v in unflatten(vector, like).items()} for vector in (h, p))

    def product(step: float) -> float:
        model = tiny_learner().model.double().eval()
        model.load_state_dict({**model.state_dict(), **{n: like[n].double() - step * along[n] for n in like}})
        cross_entropy(model(draw(10).x.double()), draw(10).y).backward()
        return float(inner({n: q.grad for n, q in model.named_parameters()}, aim, normalize))

    step = 1e-5 / float(h.norm())
    slope = (product(step) - product(-step)) / (2 * step)
    assert slope == pytest.approx(-float(h.double().square().sum()), rel=1e-3)


def test_a_few_clients_do_what_all_would() -> None:
    target = None
    for k in (6, 2, 1):
        victim = learner()
        attack = made("accumulative_updates", accumulation_weight=0.5)
        batch = tiny_batch(6)
        values, _ = ClientGradients()(victim.view(), batch.x, batch.y, [1] * 6)
        c = RoundKnowledge(values, torch.ones(6), torch.arange(6) < k)
        got = with_rows(c, attack.poison(c, victim.view(), Phase.ACCUMULATE)).mean(0)
        target = got if target is None else target
        torch.testing.assert_close(got, target, rtol=1e-3, atol=1e-4)
        assert float((got - values.mean(0)).norm()) > 1e-3


def test_the_published_shortcut_leaves_the_honest_gradient_out() -> None:
    victim = learner()
    values = torch.randn(4, SIZE)
    c = RoundKnowledge(values, torch.ones(4), torch.ones(4, dtype=torch.bool))
    whole, short = (
        made("accumulative_updates", honest_term=term, noise_scale=0.0).poison(c, victim.view(), Phase.ACCUMULATE)[0]
        for term in (True, False)
    )
    torch.testing.assert_close(whole - short, values.mean(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", UPDATE_ATTACKS)
@pytest.mark.parametrize("k", [1, 3, 8])
def test_every_attack_sends_finite_rows_for_its_own_clients_and_writes_to_none(name: str, k: int) -> None:
    victim, c = learner(), collusion(k=k)
    before = c.values.clone()
    campaign = made(name)
    for phase in (Phase.DORMANT, Phase.ACCUMULATE, Phase.TRIGGER):
        rows = campaign.poison(c, victim.view(), phase)
        if phase is Phase.DORMANT:
            assert rows is None
        elif rows is not None:
            assert rows.shape == (k, SIZE)
            assert bool(rows.isfinite().all())
    assert torch.equal(c.values, before)


@given(
    seed=st.integers(0, 1000),
    size=st.floats(1e-6, 1e30),
    eta=st.floats(1e-3, 1e3),
    norm=st.sampled_from(["l2", "linf"]),
    broken=st.sampled_from([None, math.nan, math.inf, -math.inf]),
)
@settings(max_examples=60, deadline=None)
def test_the_bound_holds_whatever_an_attack_returns(seed: int, size: float, eta: float, norm: str, broken) -> None:
    g = torch.Generator().manual_seed(seed)
    sent = size * torch.randn(3, 20, generator=g)
    if broken is not None:
        sent[0, 3] = broken
    campaign = UpdateAttack.always(lambda c, view: sent, UpdateBudget(eta, norm))  # type: ignore[arg-type]
    rows = campaign.poison(collusion(k=3, d=20), learner().view(), Phase.TRIGGER)
    assert rows is not None
    sizes = torch.linalg.vector_norm(rows.double(), 2 if norm == "l2" else torch.inf, dim=1)
    assert float(sizes.max()) <= eta * (1 + 1e-4)
    inside = torch.linalg.vector_norm(sent.double(), 2 if norm == "l2" else torch.inf, dim=1) <= eta
    assert torch.equal(rows[inside], sent[inside])


@pytest.mark.parametrize("wrong", [torch.zeros(3, 7), torch.zeros(2, 20), torch.zeros(3, 20).long(), "rows", None])
def test_rows_of_another_shape_are_an_error(wrong) -> None:
    with pytest.raises(AttackError, match=r"wanted updates \[3, 20\]"):
        UpdateAttack.always(lambda c, view: wrong).poison(collusion(k=3, d=20), learner().view(), Phase.TRIGGER)


def test_a_trigger_too_small_for_the_round_is_an_error() -> None:
    with pytest.raises(AttackError, match="wanted at least one for each"):
        made("accumulative_updates").poison(collusion(m=13), learner().view(), Phase.ACCUMULATE)


def sent(name: str, c: RoundKnowledge, **options) -> torch.Tensor:
    rows = made(name, **options).poison(c, learner().view(), Phase.ACCUMULATE)
    assert rows is not None
    return rows


def test_the_fields_standards_are_their_definitions() -> None:
    c = collusion(m=10, k=3, d=20)
    others, own = c.values[~c.malicious], c.values[c.malicious]
    torch.testing.assert_close(sent("sign_flip", c, scale=4.0), -4 * own)
    torch.testing.assert_close(sent("ipm", c, scale=0.5), (-0.5 * others.mean(0)).expand(3, -1))
    z = NormalDist().inv_cdf(4 / 7)  # s = 6 − 3 = 3 supporters of 7 honest
    assert max_deviations(10, 3) == pytest.approx(z)
    torch.testing.assert_close(sent("alie", c), (others.mean(0) - z * others.std(0)).expand(3, -1))
    assert max_deviations(10, 6) == 0.0
    noise = sent("gaussian_updates", c, scale=2.0)
    torch.testing.assert_close(noise.norm(dim=1), (2 * others.norm(dim=1).mean()).expand(3))
    assert not torch.equal(noise[0], noise[1])
    copied = sent("mimic", c)
    assert any(torch.equal(copied[0], row) for row in others)
    assert torch.equal(copied[0], copied[2])


@pytest.mark.parametrize("away", ["unit", "deviation", "sign"])
def test_min_max_and_min_sum_go_as_far_as_their_bound_and_no_further(away: str) -> None:
    c = collusion(m=10, k=3, d=20)
    others = c.values[~c.malicious].double()
    apart = torch.cdist(others, others).square()
    for name, bound, reach in (
        ("min_max", float(apart.max()), lambda row: float((others - row).square().sum(1).max())),
        ("min_sum", float(apart.sum(1).max()), lambda row: float((others - row).square().sum())),
    ):
        row = sent(name, c, perturbation=away)[0].double()
        assert reach(row) == pytest.approx(bound, rel=1e-4)
        assert reach(others.mean(0) + 1.01 * (row - others.mean(0))) > bound


def test_mimic_follows_the_direction_in_which_clients_differ() -> None:
    g = torch.Generator().manual_seed(3)
    axis = torch.zeros(20)
    axis[4] = 1.0
    attack, chosen = made("mimic"), []
    for _ in range(30):
        values = 0.1 * torch.randn(10, 20, generator=g) + torch.linspace(-1, 1, 10)[:, None] * axis
        rows = attack.poison(
            RoundKnowledge(values, torch.ones(10), torch.arange(10) < 3), learner().view(), Phase.ACCUMULATE
        )
        chosen.append(int((values - rows[0]).abs().sum(1).argmin()))
    assert set(chosen[-10:]) <= {8, 9} or set(chosen[-10:]) <= {3, 4}  # one end of the axis, the same throughout


def test_the_reversed_trigger_turns_the_mean_round() -> None:
    for k in (1, 4, 8):
        c = collusion(k=k)
        campaign = made("reverse_trigger", loss_scale=20.0)
        assert campaign.poison(c, learner().view(), Phase.ACCUMULATE) is None
        rows = campaign.poison(c, learner().view(), Phase.TRIGGER)
        torch.testing.assert_close(mean(with_rows(c, rows), c.weights), -20 * c.mean(), rtol=1e-3, atol=1e-3)


def test_the_tiny_net_has_as_many_parameters_as_these_tests_count_on() -> None:
    assert flatten(learner().view().trainable).numel() == SIZE
