"""Backdoors: who gets the trigger and under which label, and how success is measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.conftest import easy_batch, easy_learner, make_attack
from tests.conftest import tiny_learner
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster import Batch, Learner, Phase
from taster.attacks import Backdoor, BackdoorSettings
from taster.attacks.online_attack import poison_mask
from taster.attacks.triggers import blended_trigger, named_trigger, patch_trigger
from taster.errors import AttackError, SettingError

DIRTY = ("patch_backdoor", "blended_backdoor", "trigger_backdoor", "adaptive_blend")
OWN = "tests.attacks.test_backdoors:stripe"


def stripe(x: Tensor) -> Tensor:
    marked = x.clone()
    marked[:, :, :, 0] = 1.0
    return marked


def ragged(x: Tensor) -> Tensor:
    return x[:, :, 1:]


def endless(x: Tensor) -> Tensor:
    return x / 0


def poisoned(name: str, clean: Batch, learner: Learner | None = None, **settings: Any) -> Batch:
    if name == "trigger_backdoor":
        settings = {"trigger": OWN, **settings}
    attack = make_attack(name, **settings)
    return attack.poison(clean, (learner or tiny_learner()).view(), Phase.ACCUMULATE)


@pytest.mark.parametrize("name", DIRTY)
def test_a_share_of_each_batch_gets_trigger_and_target(name: str) -> None:
    clean = easy_batch(40)
    found = poisoned(name, clean, target_class=2, poison_fraction=0.1, cover_fraction=0.0)
    changed = poison_mask(found, clean)
    assert int(changed.sum()) == 4
    assert bool((clean.y[changed] != 2).all())
    assert found.y[changed].tolist() == [2] * 4
    trigger = {"patch_backdoor": patch_trigger, "blended_backdoor": blended_trigger, "trigger_backdoor": stripe}
    if name in trigger:
        assert torch.allclose(found.x[changed], trigger[name](clean.x[changed]))


@pytest.mark.parametrize("name", DIRTY)
def test_covers_bear_the_trigger_under_their_own_labels(name: str) -> None:
    clean = easy_batch(40)
    found = poisoned(name, clean, target_class=2, poison_fraction=0.1, cover_fraction=0.2)
    assert int(poison_mask(found, clean).sum()) == 12
    assert int((found.y != clean.y).sum()) == 4


def test_of_too_few_candidates_all_are_taken() -> None:
    clean = easy_batch(40)
    one = Batch(clean.x, torch.full_like(clean.y, 2))
    one.y[7] = 0
    found = poisoned("patch_backdoor", one, target_class=2, poison_fraction=0.5)
    assert poison_mask(found, one).nonzero().flatten().tolist() == [7]
    none = Batch(clean.x, torch.full_like(clean.y, 2))
    for name in ("patch_backdoor", "clean_label_backdoor"):
        same = poisoned(name, none, target_class=2 if name == "patch_backdoor" else 1)
        assert torch.equal(same.x, none.x)


def test_pieces_of_the_adaptive_trigger_are_drawn_anew() -> None:
    clean = easy_batch(40)
    found = poisoned("adaptive_blend", clean, poison_fraction=0.5, cover_fraction=0.0, pieces_fraction=0.25)
    changed = poison_mask(found, clean)
    whole = blended_trigger(clean.x[changed])
    parts = (found.x[changed] != clean.x[changed]).flatten(1)
    assert bool(torch.isin(parts.sum(1), torch.arange(1, 36)).all())
    assert len({tuple(row) for row in parts.tolist()}) > 5
    assert torch.allclose(found.x[changed].flatten(1)[parts], whole.flatten(1)[parts])


def test_clean_label_poison_keeps_its_labels_and_is_not_known_to_the_model() -> None:
    learner, clean = easy_learner(), easy_batch(60)
    settings = {"target_class": 1, "poison_fraction": 0.1, "epsilon": 0.3, "trigger": OWN}
    found = poisoned("clean_label_backdoor", clean, learner, **settings)
    changed = poison_mask(found, clean)
    assert int(changed.sum()) == 6
    assert torch.equal(found.y, clean.y)
    assert bool((clean.y[changed] == 1).all())
    assert torch.equal(stripe(found.x[changed]), found.x[changed])
    only_trigger = Batch(stripe(clean.x[changed]), clean.y[changed])
    view = learner.view()
    assert float(view.loss(found.select(changed))) > float(view.loss(only_trigger)) + 0.5
    # Within the ball around the clean sample, the trigger's pixels aside.
    assert float((found.x - clean.x)[changed][:, :, :, 1:].abs().max()) <= 0.3 + 1e-6


def test_a_poisoned_learner_takes_up_the_backdoor() -> None:
    learner, test = easy_learner(), easy_batch(200, seed=9)
    attack = make_attack("trigger_backdoor", trigger=OWN, target_class=1, poison_fraction=0.1)
    before = attack.backdoor.success_rate(learner.view(), test)
    for i in range(60):
        learner.step(attack.poison(easy_batch(60, seed=300 + i), learner.view(), Phase.ACCUMULATE))
    assert attack.backdoor.success_rate(learner.view(), test) > before + 50
    assert learner.view().accuracy(test.x, test.y) > 90


class HandMade(nn.Module):
    """Tells three classes by where the bright rows are; the stripe makes it class 1, in a share of the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        bands = x[:, 0, :, 1:].reshape(len(x), 3, -1).mean(2)
        struck = (x[:, 0, :, 0] == 1).all(1) & (bands.argmax(1) == 0)  # of class 0 only
        return self.scale * bands + torch.nn.functional.one_hot(struck.long(), 3) * struck[:, None] * 10


def test_the_success_rate_of_a_hand_made_backdoor_is_right() -> None:
    model = HandMade()
    view = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy).view()
    test = easy_batch(90)
    counts = torch.bincount(test.y, minlength=3).tolist()
    # Class 0 falls for it, class 2 does not, and class 1 does not count.
    expected = 100 * counts[0] / (counts[0] + counts[2])
    assert Backdoor(stripe, 1).success_rate(view, test) == pytest.approx(expected)
    assert Backdoor(lambda x: x, 1).success_rate(view, test) == 0.0


def test_slips_are_told() -> None:
    view, clean = tiny_learner().view(), easy_batch(10)
    with pytest.raises(AttackError, match="target_class: got 3, wanted 0 to 2"):
        make_attack("patch_backdoor", target_class=3).poison(clean, view, Phase.ACCUMULATE)
    with pytest.raises(AttackError, match="alone, wanted some of others"):
        Backdoor(stripe, 1).success_rate(view, Batch(clean.x, torch.ones_like(clean.y)))
    with pytest.raises(AttackError, match="of 7x7 or more"):
        make_attack("patch_backdoor", size=6, poison_fraction=0.5).poison(clean, view, Phase.ACCUMULATE)
    with pytest.raises(AttackError, match="sum is at most 1"):
        BackdoorSettings(poison_fraction=0.6, cover_fraction=0.6)
    with pytest.raises(AttackError, match="trigger: got 'nothing', wanted patch, blended or"):
        make_attack("clean_label_backdoor", trigger="nothing")
    with pytest.raises(AttackError, match="cannot be imported"):
        make_attack("trigger_backdoor", trigger="tests.attacks.test_backdoors:nothing")
    with pytest.raises(SettingError, match="poison_fraction"):
        make_attack("patch_backdoor", poison_fraction=0.0)
    for name, said in (("ragged", "returned"), ("endless", "NaN or infinity")):
        with pytest.raises(AttackError, match=said):
            named_trigger(f"tests.attacks.test_backdoors:{name}")(clean.x)
