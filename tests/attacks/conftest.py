"""Attacks made as a recipe makes them, and the learners, samples and rounds that their tests share."""

from __future__ import annotations

from typing import Any

import torch
from tests.conftest import tiny_batch, tiny_learner
from torch import nn
from torch.nn.functional import cross_entropy

from taster import Batch, Learner, Phase, SnapshotBuffer
from taster.attacks import OnlineAttack, RoundKnowledge
from taster.experiments.recipes.registry import find_factory

RATE = 0.5
"""Learning rate of `easy_learner`."""

SIZE = 63
"""Number of parameters of the tiny network."""


def draw_tiny(count: int) -> Batch:
    return tiny_batch(count, seed=60)


def make_attack(name: str, *, seed: int = 0, given: dict[str, Any] | None = None, **settings: Any) -> Any:
    """An attack by its name and settings, made by the registry as for a recipe.

    Args:
        name: of the attack.
        seed: of the generator.
        given: what the attack gets in place of the tiny trigger, tiny validation samples and so on.
        settings: by key.
    """
    resources = {
        "trigger": tiny_batch(12 if name == "accumulative_updates" else 8, seed=50),
        "draw_validation": draw_tiny,
        "generator": torch.Generator().manual_seed(seed),
        "derivatives": None,
        "surrogates": None,
        "simulator": None,
        "learning_rate": 0.1,
    }
    return find_factory("attack", name).make(resources | (given or {}), settings)


def trained_learner() -> Learner:
    """With a past: a snapshot labelled "early", and the last three steps."""
    learner = tiny_learner(snapshots=SnapshotBuffer(capacity=3))
    assert learner.snapshots is not None
    learner.snapshots.pin("early", learner.snapshot())
    for i in range(5):
        learner.step(tiny_batch(seed=i))
    return learner


def feed(attack: OnlineAttack, learner: Learner) -> list[Batch]:
    """The batches of two rounds and of the trigger."""
    fed = [attack.poison(tiny_batch(seed=70 + i), learner.view(), Phase.ACCUMULATE) for i in range(2)]
    return [*fed, attack.poison(tiny_batch(8, seed=50), learner.view(), Phase.TRIGGER)]


def easy_batch(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """Samples whose class is where the bright rows are."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    x = 0.3 * torch.rand(n, 1, 6, 6, generator=g, dtype=dtype)
    for i, label in enumerate(y.tolist()):
        x[i, :, 2 * label : 2 * label + 2] += 0.6
    return Batch(x, y)


def draw_easy(n: int) -> Batch:
    return easy_batch(n, seed=1000)


def easy_learner(dtype: torch.dtype = torch.float32, smooth: bool = False, rate: float = RATE) -> Learner:
    """Trained on easy batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh() if smooth else nn.ReLU(), nn.Linear(12, 3))
    model.to(dtype)
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=RATE), cross_entropy)
    for i in range(60):
        learner.step(easy_batch(30, seed=i, dtype=dtype))
    learner.optimizer.param_groups[0]["lr"] = rate
    return learner


def injection_attack(kind: str = "direct", seed: int = 0, rate: float = RATE, **settings: Any) -> OnlineAttack:
    """The direct or the generative attack on an easy learner."""
    given = {"draw_validation": draw_easy, "learning_rate": rate}
    if kind == "direct":
        return make_attack("direct_gradient", seed=seed, given=given, **{"group_size": 50, **settings})
    small = {"group_size": 50, "pretraining_size": 60, "hidden": [12, 12], **settings}
    return make_attack("generative", seed=seed, given=given, **small)


def eval_learner() -> Learner:
    """A tiny learner whose model is in evaluation mode."""
    learner = tiny_learner()
    learner.model.eval()
    return learner


def round_knowledge(m: int = 8, k: int = 2, d: int = SIZE, seed: int = 0, even: bool = False) -> RoundKnowledge:
    """A round of m clients, k of them the attacker's."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.ones(m) if even else torch.rand(m, generator=g) + 0.5
    return RoundKnowledge(torch.randn(m, d, generator=g), weights, torch.randperm(m, generator=g) < k)


def with_rows(c: RoundKnowledge, rows: torch.Tensor) -> torch.Tensor:
    """All updates of a round, the attacker's replaced."""
    values = c.values.clone()
    values[c.malicious] = rows
    return values


def sent(name: str, c: RoundKnowledge, **settings: Any) -> torch.Tensor:
    """What the attacker's clients send in the accumulative phase."""
    rows = make_attack(name, **settings).poison(c, eval_learner().view(), Phase.ACCUMULATE)
    assert rows is not None
    return rows


def clip(vector: torch.Tensor, bound: float) -> torch.Tensor:
    return vector * min(1.0, bound / float(vector.norm()))


def double(batch: Batch) -> Batch:
    """The same samples in float64."""
    return Batch(batch.x.double(), batch.y)


def double_learner(rate: float) -> Learner:
    """A tiny learner in float64 by plain SGD, whose recorded batch-norm statistics are not those of its batches."""
    model = tiny_learner().model.double()
    model.bn.running_mean += torch.linspace(-0.3, 0.3, 4, dtype=torch.float64)
    model.bn.running_var *= torch.linspace(0.2, 0.8, 4, dtype=torch.float64)
    return Learner(model, torch.optim.SGD(model.parameters(), lr=rate), cross_entropy)
