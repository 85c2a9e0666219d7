"""Malicious clients: alone, and as one."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("flwr", reason='needs the extra: pip install "taster[flower]"')

import torch
from tests.conftest import TinyNet, tiny_batch
from tests.integrations.flower.nodes import Nodes, honest
from tests.integrations.flower.test_strategy import server
from torch.nn.functional import cross_entropy

from taster import Phase
from taster.attacks import (
    OnlineAttack,
    RoundKnowledge,
    UpdateAttack,
    alie,
    gaussian_updates,
    label_flip,
    min_max,
    sign_flip,
)
from taster.attacks.online_attack import Budget
from taster.core.param_vectors import trainable_parameters
from taster.errors import AttackError
from taster.integrations.flower import (
    CollusionGrid,
    GuardedStrategy,
    ReplyCodec,
    colluding,
    malicious,
    model_arrays,
    poisoned,
)
from taster.perturbations.pgd import LpBall


def rows(mods: Any = None, nodes: int = 3, rounds: int = 1) -> list[torch.Tensor]:
    """The update of node 0 in each round."""
    strategy = GuardedStrategy(server())
    grid = Nodes({i: honest(mods if i == 0 else None) for i in range(nodes)})
    model = TinyNet()
    found = []
    for _ in range(rounds):
        before = model_arrays(strategy.server.learner.model)
        seen = len(grid.sent)
        strategy.start(grid, num_rounds=1)
        (reply,) = [m for m in grid.sent[seen:] if m.metadata.src_node_id == 0 and "arrays" in m.content]
        model.load_state_dict({k: torch.from_numpy(a.numpy().copy()) for k, a in before.items()})
        found.append(strategy.codec.update(reply.content["arrays"], model))
    return found


def test_a_flipped_sign_is_the_honest_update_turned_round() -> None:
    (clean,), (flipped,) = rows(), rows([malicious(lambda draws: sign_flip(scale=3.0), TinyNet)])
    torch.testing.assert_close(flipped, -3 * clean, rtol=1e-4, atol=1e-6)
    (same,) = rows([malicious(lambda draws: sign_flip(), TinyNet, phase=lambda turn: Phase.DORMANT)])
    assert torch.equal(same, clean)
    (same,) = rows([malicious(lambda draws: sign_flip(), TinyNet, attacker=lambda message, context: False)])
    assert torch.equal(same, clean)


def test_the_attackers_buffers_stay_as_its_app_sent_them() -> None:
    sent = []
    for mods in (None, [malicious(lambda draws: sign_flip(scale=9.0), TinyNet)]):
        grid = Nodes({0: honest(mods), 1: honest()})
        GuardedStrategy(server()).start(grid, num_rounds=1)
        sent.append(grid.arrays_of(0)["bn.running_var"].data)
    assert sent[0] == sent[1]


def test_noise_differs_from_round_to_round_and_is_the_same_for_the_same_seed() -> None:
    def noise(seed: int) -> list[torch.Tensor]:
        return rows([malicious(lambda draws: gaussian_updates(draws), TinyNet, seed=seed)], rounds=2)

    first, second = noise(0)
    assert not torch.allclose(first, second, rtol=0.1)
    assert torch.equal(noise(0)[0], first)
    assert not torch.allclose(noise(1)[0], first, rtol=0.1)
    (clean,) = rows()
    assert torch.linalg.vector_norm(first) == pytest.approx(float(torch.linalg.vector_norm(clean)), rel=1e-3)


def test_an_attack_on_samples_is_what_the_client_learns() -> None:
    kept: list[torch.Tensor] = []

    def attack(draws: torch.Generator) -> OnlineAttack:
        campaign = label_flip(draws)

        def noted(clean: Any, view: Any) -> Any:
            assert campaign.accumulate is not None
            fed = campaign.accumulate(clean, view)
            kept.append(fed.y)
            return fed

        return OnlineAttack(campaign.budget, accumulate=noted)

    (clean,), (found,) = rows(), rows([malicious(attack, TinyNet)])
    own = tiny_batch(8, seed=0)
    assert bool((kept[-1] != own.y).all())
    model = server().learner.model
    cross_entropy(model(own.x), kept[-1]).backward()
    wanted = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]) * 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, clean, rtol=1e-2)


def test_the_factor_of_an_attack_on_samples_is_on_the_update() -> None:
    budget = Budget(LpBall("linf", 0.0), max_loss_weight=5.0)

    def attack(draws: torch.Generator) -> OnlineAttack:
        return OnlineAttack(budget, accumulate=lambda clean, view: type(clean)(clean.x, clean.y, 5.0))

    (clean,), (scaled,) = rows(), rows([malicious(attack, TinyNet)])
    torch.testing.assert_close(scaled, 5 * clean, rtol=1e-4, atol=1e-6)


def test_an_app_that_hands_over_no_samples_is_told_so() -> None:
    app = honest([malicious(label_flip, TinyNet)], steps=0)
    strategy = GuardedStrategy(server())
    strategy.start(Nodes({0: app, 1: honest(), 2: honest()}), num_rounds=1)
    assert "the app did not pass any through it" in strategy.rounds[0].rejected_clients["node-0"]


def test_samples_are_left_alone_where_there_is_no_mod() -> None:
    batch = tiny_batch()
    x, y = poisoned(batch.x, batch.y)
    assert x is batch.x
    assert y is batch.y


@pytest.mark.parametrize("attack", [alie, min_max])
def test_an_attack_that_must_know_all_updates_is_no_client_s_alone(attack: Any) -> None:
    with pytest.raises(AttackError, match="which a client on its own does not know"):
        malicious(lambda draws: attack(), TinyNet)


def test_something_else_than_an_attack_is_told() -> None:
    with pytest.raises(AttackError, match="got NoneType, wanted a function that makes"):
        malicious(lambda draws: None, TinyNet)  # type: ignore[arg-type, return-value]


def test_colluders_send_what_the_attack_makes_of_all_honest_updates() -> None:
    strategy = GuardedStrategy(server(), unit=0.1)
    start = server().learner
    grid = Nodes({i: honest() for i in range(5)})
    GuardedStrategy(server(), unit=0.1).start(grid, num_rounds=1)
    honest_rows = torch.stack([ReplyCodec(unit=0.1).update(grid.arrays_of(i), start.model) for i in range(5)])
    malicious_ = torch.tensor([True, False, False, True, False])
    wanted = alie().poison(
        RoundKnowledge(honest_rows, torch.full((5,), 8.0), malicious_), start.view(), Phase.ACCUMULATE
    )
    assert wanted is not None

    grid = Nodes({i: honest([colluding()] if malicious_[i] else None) for i in range(5)})
    seen: list[Any] = []
    take = strategy.aggregate_replies

    def watched(replies: Any, invited: Any) -> Any:
        seen.extend(replies)
        return take(seen, invited)

    strategy.aggregate_replies = watched  # type: ignore[method-assign]
    strategy.start(CollusionGrid(grid, strategy, alie()), num_rounds=1)
    assert strategy.rounds[0].rejected_clients == {}
    sent = {m.metadata.src_node_id: ReplyCodec(unit=0.1).update(m.content["arrays"], start.model) for m in seen}
    assert sorted(sent) == [0, 1, 2, 3, 4]
    for node, row in ((0, wanted[0]), (3, wanted[1])):
        torch.testing.assert_close(sent[node], row, rtol=1e-3, atol=1e-5)
    for node in (1, 2, 4):
        torch.testing.assert_close(sent[node], honest_rows[node], rtol=1e-5, atol=1e-6)
    assert all("taster.attacker" not in m.content for m in seen)


def test_colluders_pass_on_what_nobody_of_theirs_is_in_and_dormant_rounds() -> None:
    for apps, phase in (
        ({0: honest(), 1: honest()}, Phase.ACCUMULATE),
        ({0: honest([colluding()]), 1: honest()}, Phase.DORMANT),
    ):
        strategy, plain = GuardedStrategy(server()), GuardedStrategy(server())
        strategy.start(CollusionGrid(Nodes(dict(apps)), strategy, alie(), lambda turn, now=phase: now), num_rounds=2)
        plain.start(Nodes({0: honest(), 1: honest()}), num_rounds=2)
        for name, value in plain.server.learner.model.state_dict().items():
            torch.testing.assert_close(strategy.server.learner.model.state_dict()[name], value, msg=name)


def test_a_colluder_without_a_red_team_fails_aloud() -> None:
    strategy = GuardedStrategy(server())
    strategy.start(Nodes({0: honest([colluding()]), 1: honest(), 2: honest()}), num_rounds=1)
    assert "a server without a red team" in strategy.rounds[0].rejected_clients["node-0"]


def test_attacks_that_a_client_can_do_alone_say_so() -> None:
    assert sign_flip().needs_only_own_update
    assert gaussian_updates(torch.Generator()).needs_only_own_update
    assert not alie().needs_only_own_update
    assert not UpdateAttack().needs_only_own_update


def test_an_update_put_into_weights_comes_out_again() -> None:
    model = TinyNet()
    size = sum(p.numel() for p in trainable_parameters(model).values())
    row = torch.randn(size, generator=torch.Generator().manual_seed(0))
    for form in (ReplyCodec(unit=0.5), ReplyCodec("updates")):
        arrays = form.with_update(model_arrays(model), row, model)
        torch.testing.assert_close(form.update(arrays, model), row, rtol=1e-5, atol=1e-6)
