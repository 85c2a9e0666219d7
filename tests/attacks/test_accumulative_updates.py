"""Algorithm 2 of Pang et al. 2021, written out."""

from __future__ import annotations

import pytest
import torch
from tests.attacks.conftest import SIZE, clip, draw_tiny, eval_learner, make_attack, round_knowledge, with_rows
from tests.conftest import tiny_batch, tiny_learner
from torch.nn.functional import cross_entropy

from taster import Batch, Phase
from taster.attacks import (
    AccumulationSettings,
    RoundKnowledge,
    UpdateSettings,
    accumulative_updates,
)
from taster.client_gradients import ClientGradients
from taster.core.param_vectors import unflatten
from taster.derivatives import Derivatives, DiffMethod, inner
from taster.errors import AttackError
from taster.federated import NamedClientUpdates, Server


@pytest.mark.parametrize("eta", [None, 0.2])
@pytest.mark.parametrize("mode", ["optimized", "reversed", "clean"])
def test_algorithm_2_step_by_step(mode: str, eta: float | None) -> None:
    """Against the algorithm written out with automatic differentiation, all clients the attacker's."""
    lam, alpha, clients = 0.3, 0.5, 4
    victim, twin = eval_learner(), eval_learner()
    trigger = tiny_batch(12, seed=5)
    attack = accumulative_updates(
        trigger,
        draw_tiny,
        torch.Generator().manual_seed(0),
        Derivatives(DiffMethod("double_backward")),
        accumulation=AccumulationSettings(
            accumulation_weight=lam,
            trigger_update=mode,  # type: ignore[arg-type]
            trigger_step_size=alpha,
            normalize="none",
            validation_size=10,
        ),
        update=UpdateSettings(max_norm=eta, noise_scale=0.0),
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
        own = slope(params, draw_tiny(10), graph=True)
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
    victim = eval_learner()
    attack = accumulative_updates(
        tiny_batch(12, seed=5),
        draw_tiny,
        torch.Generator().manual_seed(0),
        Derivatives(DiffMethod("double_backward")),
        accumulation=AccumulationSettings(
            accumulation_weight=1.0,
            honest_term=False,
            normalize=normalize,  # type: ignore[arg-type]
            trigger_update="reversed",
            validation_size=10,
        ),
        update=UpdateSettings(noise_scale=0.0),
    )
    c = RoundKnowledge(torch.zeros(4, SIZE), torch.ones(4), torch.ones(4, dtype=torch.bool))
    h = attack.poison(c, victim.view(), Phase.ACCUMULATE)[0]
    p = attack.poison(c, victim.view(), Phase.TRIGGER).mean(0)
    like = victim.view().trainable
    along, aim = ({n: v.double() for n, v in unflatten(vector, like).items()} for vector in (h, p))

    def product(step: float) -> float:
        model = tiny_learner().model.double().eval()
        model.load_state_dict({**model.state_dict(), **{n: like[n].double() - step * along[n] for n in like}})
        cross_entropy(model(draw_tiny(10).x.double()), draw_tiny(10).y).backward()
        return float(inner({n: q.grad for n, q in model.named_parameters()}, aim, normalize))

    step = 1e-5 / float(h.norm())
    slope = (product(step) - product(-step)) / (2 * step)
    assert slope == pytest.approx(-float(h.double().square().sum()), rel=1e-3)


def test_a_few_clients_do_what_all_would() -> None:
    target = None
    for k in (6, 2, 1):
        victim = eval_learner()
        attack = make_attack("accumulative_updates", validation_size=10, accumulation_weight=0.5)
        batch = tiny_batch(6)
        values, _ = ClientGradients()(victim.view(), batch.x, batch.y, [1] * 6)
        c = RoundKnowledge(values, torch.ones(6), torch.arange(6) < k)
        got = with_rows(c, attack.poison(c, victim.view(), Phase.ACCUMULATE)).mean(0)
        target = got if target is None else target
        torch.testing.assert_close(got, target, rtol=1e-3, atol=1e-4)
        assert float((got - values.mean(0)).norm()) > 1e-3


def test_the_published_shortcut_leaves_the_honest_gradient_out() -> None:
    victim = eval_learner()
    values = torch.randn(4, SIZE)
    c = RoundKnowledge(values, torch.ones(4), torch.ones(4, dtype=torch.bool))
    whole, short = (
        make_attack("accumulative_updates", validation_size=10, honest_term=term, noise_scale=0.0).poison(
            c, victim.view(), Phase.ACCUMULATE
        )[0]
        for term in (True, False)
    )
    torch.testing.assert_close(whole - short, values.mean(0), rtol=1e-3, atol=1e-4)


def test_a_trigger_too_small_for_the_round_is_an_error() -> None:
    with pytest.raises(AttackError, match="wanted at least one for each"):
        make_attack("accumulative_updates").poison(round_knowledge(m=13), eval_learner().view(), Phase.ACCUMULATE)
