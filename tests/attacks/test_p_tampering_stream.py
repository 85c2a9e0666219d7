"""p-tampering of a stream: right labels always, and harm beyond the control's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.conftest import easy_batch, easy_learner, make_attack

from taster import Batch, Phase
from taster.attacks import OnlineAttack, p_tampering_stream
from taster.errors import AttackError, DataError, SettingError
from taster.scores.influence import FirstOrderInfluence


def own_samples(seed: int, classes: tuple[int, ...] = (0, 1, 2)) -> Any:
    """Draws, as a recipe does, from samples that are harder than the stream's."""
    everything = noisy(600, 5000 + seed)
    kept = everything.select(torch.isin(everything.y, torch.tensor(classes)))
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Batch:
        if count > len(kept):
            raise DataError(f"got a draw of {count}, wanted at most {len(kept)}")
        return kept.select(torch.randperm(len(kept), generator=generator)[:count])

    return draw


def noisy(n: int, seed: int) -> Batch:
    """The class is where the bright rows are, much of it drowned in noise."""
    easy = easy_batch(n, seed=seed)
    noise = torch.rand(easy.x.shape, generator=torch.Generator().manual_seed(seed))
    return Batch(0.35 * easy.x + 0.65 * noise, easy.y)


def tampering(seed: int = 0, draw: Any = None, **settings: Any) -> OnlineAttack:
    given = {"draw_validation": draw or own_samples(seed)}
    return make_attack("p_tampering_stream", seed=seed, given=given, **{"poison_fraction": 0.5, **settings})


@pytest.mark.parametrize("choice", ["gain", "loss", "random"])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("any_class", [False, True])
def test_labels_are_right_and_samples_are_own_ones(choice: str, reset: bool, any_class: bool) -> None:
    clean, view = noisy(40, 1), easy_learner().view()
    attack = tampering(choice=choice, reset=reset, any_class=any_class)
    fed = attack.poison(clean, view, Phase.ACCUMULATE)
    own = noisy(600, 5000)
    labels = {tuple(x.flatten().tolist()): int(y) for x, y in zip(own.x, own.y, strict=True)}
    changed = (fed.x != clean.x).flatten(1).any(1)
    assert 0 < int(changed.sum()) <= 20
    for x, y in zip(fed.x[changed], fed.y[changed], strict=True):
        assert labels[tuple(x.flatten().tolist())] == int(y)
    assert torch.equal(fed.y[~changed], clean.y[~changed])
    assert any_class or torch.equal(fed.y, clean.y)


def loss_after(seed: int, choice: str) -> float:
    """The loss on fresh samples after batches of which every sample could be tampered with."""
    learner, attack = easy_learner(rate=0.1), tampering(seed, poison_fraction=1.0, draws=20, choice=choice)
    for step in range(12):
        learner.step(attack.poison(noisy(20, 100 * seed + step), learner.view(), Phase.ACCUMULATE))
    return float(learner.view().loss(noisy(600, 9000 + seed)))


def test_chosen_samples_do_more_harm_than_random_ones() -> None:
    for seed in range(3):
        assert loss_after(seed, "gain") > loss_after(seed, "random") + 0.03


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("victim_class", [None, 1])
def test_a_step_on_what_is_fed_raises_the_validation_loss_beyond_chance(reset: bool, victim_class: int | None) -> None:
    view, own = easy_learner().view(), noisy(400, 5)
    s_val = own.select(slice(300, None))
    if victim_class is not None:
        s_val = s_val.select(s_val.y == victim_class)
    harm, settings = FirstOrderInfluence(s_val), {"poison_fraction": 1.0, "reset": reset, "pool_size": 300}
    for seed in range(3):
        honest = noisy(100, seed)
        fed = [
            tampering(seed, lambda n: own, choice=choice, victim_class=victim_class, **settings).poison(
                honest, view, Phase.ACCUMULATE
            )
            for choice in ("random", "gain")
        ]
        by_chance, chosen, before = (float(harm(batch, view).mean()) for batch in (*fed, honest))
        assert chosen > max(by_chance, before) + 0.05


def test_what_the_attacker_lacks_is_told() -> None:
    clean, view = noisy(40, 1), easy_learner().view()
    with pytest.raises(AttackError, match=r"got no sample of class 2 among 100 .* raise pool_size"):
        tampering(draw=own_samples(0, classes=(0, 1))).poison(clean, view, Phase.ACCUMULATE)
    with pytest.raises(AttackError, match="victim_class: got 7"):
        tampering(victim_class=7).poison(clean, view, Phase.ACCUMULATE)
    with pytest.raises(DataError, match="got a draw of 1100"):
        tampering(pool_size=1000).poison(clean, view, Phase.ACCUMULATE)
    for wrong in ({"poison_fraction": 0.0}, {"choice": "rejection"}, {"draws": 0}):
        with pytest.raises(SettingError):
            p_tampering_stream(own_samples(0), torch.Generator(), **wrong)  # type: ignore[arg-type]
