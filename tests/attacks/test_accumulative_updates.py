"""Algorithm 2 of Pang et al. 2021, written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.conftest import (
    SIZE,
    clip,
    double,
    double_learner,
    draw_tiny,
    eval_learner,
    make_attack,
    round_knowledge,
    with_rows,
)
from tests.conftest import tiny_batch, tiny_learner
from torch.nn.functional import conv2d, cross_entropy

from taster import Batch, Learner, Phase
from taster.attacks import (
    AccumulationSettings,
    RoundKnowledge,
    UpdateSettings,
    accumulative_updates,
)
from taster.client_gradients import BatchNormSync, ClientGradients
from taster.core.param_vectors import unflatten
from taster.core.types import BatchNormMode
from taster.data import Images
from taster.derivatives import Derivatives, DiffMethod, inner
from taster.errors import AttackError
from taster.federated import ClientPool, NamedClientUpdates, Server, Simulation, one_sample_partition


class WrittenOut:
    """Algorithm 2 in float64 by `torch.autograd` alone, on the tiny network, all clients the attacker's.

    Args:
        learner: whose parameters and recorded statistics it starts from.
        together: whether all samples of a pass are normalized together, or with the recorded statistics.
    """

    def __init__(self, learner: Learner, together: bool) -> None:
        self.theta = [p.detach().clone() for p in learner.model.parameters()]
        self.mean, self.var = learner.model.bn.running_mean.clone(), learner.model.bn.running_var.clone()
        self.eps, self.together = learner.model.bn.eps, together

    def slopes(self, parts: list[Batch], graph: bool = False) -> list[torch.Tensor]:
        """∇_θ L of each part, [d]: each part goes through copies of the parameters that are its own."""
        copies = [[p.clone().requires_grad_() for p in self.theta] for _ in parts]
        if graph:  # of one part, whose parameters are those to differentiate by
            assert len(parts) == 1
            copies = [self.theta]
        h = [conv2d(part.x, own[0], own[1], padding=1) for part, own in zip(parts, copies, strict=True)]
        whole = torch.cat(h)
        mean, var = self.mean, self.var
        if self.together:
            mean, var = whole.mean((0, 2, 3)), whole.var((0, 2, 3), unbiased=False)
        loss = whole.new_zeros(())
        for x, part, own in zip(h, parts, copies, strict=True):
            x = (x - mean[:, None, None]) / (var[:, None, None] + self.eps).sqrt()
            x = torch.relu(x * own[2][:, None, None] + own[3][:, None, None]).mean((2, 3))
            loss = loss + cross_entropy(x @ own[4].T + own[5], part.y)
        found = torch.autograd.grad(loss, [p for own in copies for p in own], create_graph=graph)
        width = len(self.theta)
        return [torch.cat([g.flatten() for g in found[i : i + width]]) for i in range(0, len(found), width)]

    def pull(self, s_val: Batch, trigger: Batch | torch.Tensor, cosine: bool) -> torch.Tensor:
        """∇_θ of the inner product, or cosine, of ∇_θ L(S_val) and the trigger: its gradient, or a given update."""
        self.theta = [p.detach().requires_grad_() for p in self.theta]
        (own,) = self.slopes([s_val], graph=True)
        other = self.slopes([trigger], graph=True)[0] if isinstance(trigger, Batch) else trigger
        product = (own * other).sum()
        if cosine:
            product = product / (own.square().sum().sqrt() * other.square().sum().sqrt())
        towards = torch.autograd.grad(product, self.theta)
        self.theta = [p.detach() for p in self.theta]
        return torch.cat([g.flatten() for g in towards])

    def step(self, row: torch.Tensor, rate: float) -> None:
        """θ ← θ − β row."""
        start = 0
        for i, p in enumerate(self.theta):
            self.theta[i] = p - rate * row[start : start + p.numel()].view_as(p)
            start += p.numel()


STATISTICS: dict[str, tuple[BatchNormSync, BatchNormMode | None, bool]] = {
    "recorded": ("recorded", None, False),
    "synchronized": ("synchronized", None, True),
    "synchronized, crafted with recorded ones": ("synchronized", "eval", False),
    "recorded, crafted with those of the batch": ("recorded", "train", True),
}
"""What the clients of a round normalize with, the setting `batch_norm`, and whether crafting normalizes together."""


@pytest.mark.parametrize("statistics", list(STATISTICS))
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("eta", [None, 0.2])
@pytest.mark.parametrize("mode", ["optimized", "reversed", "clean"])
def test_algorithm_2_step_by_step(mode: str, eta: float | None, cosine: bool, statistics: str) -> None:
    """Against the algorithm written out."""
    lam, alpha, clients, rate = 0.3, 0.5, 4, 0.1
    synchronized, batch_norm, together = STATISTICS[statistics]
    victim = double_learner(rate)
    crafting, honest = WrittenOut(victim, together), WrittenOut(victim, synchronized == "synchronized")
    trigger, s_val = double(tiny_batch(12, seed=5)), double(draw_tiny(10))
    settings: dict[str, Any] = {"batch_norm": batch_norm} if batch_norm else {}  # else what comes by default
    settings |= {} if cosine else {"normalize": "none"}
    attack = accumulative_updates(
        trigger,
        lambda n: double(draw_tiny(n)),
        torch.Generator().manual_seed(0),
        Derivatives(DiffMethod("double_backward")),
        accumulation=AccumulationSettings(
            accumulation_weight=lam,
            trigger_update=mode,  # type: ignore[arg-type]
            trigger_step_size=alpha,
            validation_size=10,
            **settings,
        ),
        update=UpdateSettings(max_norm=eta, noise_scale=0.0),
    )

    def project(row: torch.Tensor) -> torch.Tensor:
        return row if eta is None else clip(row, eta)

    shares = [Batch(trigger.x[i : i + 3], trigger.y[i : i + 3]) for i in range(0, 12, 3)]
    poisoned = [project(-slope) for slope in crafting.slopes(shares)]
    server, gradients = Server(victim), ClientGradients(synchronized)
    ones, everyone = torch.ones(clients, dtype=torch.float64), torch.ones(clients, dtype=torch.bool)
    for t in range(3):
        batch = double(tiny_batch(8, seed=t))
        values, sent = gradients(victim.view(), batch.x, batch.y, [2] * clients)
        c = RoundKnowledge(values, ones, everyone, gradients.batch_norm)
        rows = attack.poison(c, victim.view(), Phase.ACCUMULATE)
        parts = [Batch(batch.x[i : i + 2], batch.y[i : i + 2]) for i in range(0, 8, 2)]
        mean = sum(honest.slopes(parts)) / clients
        if mode == "optimized":
            slopes = crafting.slopes(shares)
            poisoned = [project(p - alpha * slope) for p, slope in zip(poisoned, slopes, strict=True)]
        h = mean + lam * crafting.pull(s_val, trigger if mode == "clean" else sum(poisoned) / clients, cosine)
        assert rows is not None
        torch.testing.assert_close(rows, project(h).expand(clients, -1), rtol=1e-8, atol=1e-10)
        server.step(NamedClientUpdates(rows, ones, tuple("abcd"), statistics=sent))
        for own in (crafting, honest):
            own.step(project(h), rate)
            own.mean, own.var = victim.model.bn.running_mean.clone(), victim.model.bn.running_var.clone()
    values, _ = gradients(victim.view(), trigger.x, trigger.y, [3] * clients)
    c = RoundKnowledge(values, ones, everyone, gradients.batch_norm)
    rows = attack.poison(c, victim.view(), Phase.TRIGGER)
    if mode == "clean":
        assert rows is None  # clients strike with what they would send anyway
    else:
        torch.testing.assert_close(rows, torch.stack(poisoned), rtol=1e-8, atol=1e-10)


def test_an_attack_knows_what_the_clients_of_its_round_normalize_with() -> None:
    """By default it crafts as they do: the same as with the setting that says so, and another than with the other."""

    def sent(statistics: BatchNormSync, batch_norm: BatchNormMode | None) -> torch.Tensor:
        attack = make_attack("accumulative_updates", validation_size=10, accumulation_weight=1.0, batch_norm=batch_norm)
        images = Images((255 * tiny_batch(32).x).byte(), tiny_batch(32).y)
        pool = ClientPool(
            images, one_sample_partition(32, 32, torch.Generator()), clients_per_round=8, malicious_fraction=1.0
        )
        run = Simulation(Server(tiny_learner()), pool, ClientGradients(statistics), attack)
        return run.updates(pool.draw(), Phase.ACCUMULATE).values.clone()

    for statistics, same, other in (("recorded", "eval", "train"), ("synchronized", "train", "eval")):
        found = sent(statistics, None)  # type: ignore[arg-type]
        assert torch.equal(found, sent(statistics, same))  # type: ignore[arg-type]
        assert not torch.allclose(found, sent(statistics, other), rtol=0.01)  # type: ignore[arg-type]


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
