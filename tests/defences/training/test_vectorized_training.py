"""Models trained side by side are those that are trained one by one, and none depends on another's samples."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from taster.defences.training import (
    ListedModels,
    SGDSettings,
    StackedModels,
    hash_partition,
    looped_training,
    vectorized_training,
)
from taster.errors import ModelError, SettingError


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).double()


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def samples(n: int = 57, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(n, 1, 4, 4, generator=generator, dtype=torch.float64),
        torch.randint(0, 3, (n,), generator=generator),
    )


def weights(models: StackedModels) -> dict[str, Tensor]:
    """Parameters of all models, [m, ...]."""
    return {name: torch.cat([params[name] for params, _ in models.chunks]) for name in models.chunks[0][0]}


def same_models(a: StackedModels, b: StackedModels) -> list[bool]:
    """For each model whether all weights are the same bits."""
    left, right = weights(a), weights(b)
    return [all(torch.equal(left[name][i], right[name][i]) for name in left) for i in range(len(a))]


SETTINGS = {
    "plain": SGDSettings(epochs=3, batch_size=4, momentum=0.0, weight_decay=0.0, schedule="constant"),
    "momentum": SGDSettings(epochs=4, batch_size=4, learning_rate=0.1, weight_decay=0.01),
    "nesterov": SGDSettings(epochs=2, batch_size=3, nesterov=True),
    "one batch": SGDSettings(epochs=3, batch_size=64),
}


@pytest.mark.parametrize("sgd", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(("make_model", "models_at_once"), [(mlp, 1), (mlp, 4), (conv_net, 64)])
def test_it_is_a_loop_over_separate_trainings(
    make_model: Callable[[], nn.Module], sgd: SGDSettings, models_at_once: int
) -> None:
    x, y = samples()
    members = [*hash_partition(x, y, 9).members, torch.tensor([], dtype=torch.int64), torch.tensor([3])]
    assert len({len(part) for part in members}) > 4  # of many sizes, which padding makes alike
    together = vectorized_training(make_model, sgd=sgd, models_at_once=models_at_once)(x, y, members, classes=3, seed=5)
    apart = looped_training(make_model, sgd=sgd)(x, y, members, classes=3, seed=5)
    found = weights(together)
    for i, model in enumerate(apart.models):
        for name, p in model.named_parameters():
            assert torch.allclose(found[name][i], p, rtol=0, atol=1e-12), (i, name)
    assert torch.allclose(together.scores(x), apart.scores(x), rtol=0, atol=1e-11)
    assert together.scores(x).shape == (57, 11, 3)
    # The one without samples is as it was made.
    untrained = looped_training(make_model, sgd=sgd)(x, y, [members[9]] * 10, classes=3, seed=5).models[9]
    assert all(torch.equal(found[name][9], p) for name, p in untrained.named_parameters())


def test_a_model_depends_on_its_own_part_alone_bit_for_bit() -> None:
    x, y = samples(80)
    x = x.float()

    def make() -> nn.Module:
        return nn.Sequential(mlp(), nn.Dropout(0.2)).float()

    train = vectorized_training(make, sgd=SGDSettings(epochs=2, batch_size=4), models_at_once=4)
    members = list(hash_partition(x, y, 6).members)
    before = train(x, y, members, classes=3, seed=0)
    for poisoned in (0, 2, 5):
        for part in (members[poisoned].repeat(5), members[poisoned][:1], members[poisoned][:0]):
            changed = [part if i == poisoned else own for i, own in enumerate(members)]
            after = train(x, y, changed, classes=3, seed=0)
            assert same_models(before, after) == [i != poisoned for i in range(6)]


def test_a_model_that_diverges_harms_no_other() -> None:
    x, y = samples(60)
    members = list(hash_partition(x, y, 5).members)
    train = vectorized_training(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double(), sgd=SGDSettings(epochs=3, batch_size=4)
    )
    before = train(x, y, members, classes=3, seed=0)
    broken = x.clone()
    broken[members[2]] = 1e308
    after = train(broken, y, members, classes=3, seed=0)
    assert not weights(after)["1.weight"][2].isfinite().all()
    assert same_models(before, after) == [True, True, False, True, True]


def test_the_same_seed_gives_the_same_models_and_torchs_own_random_numbers_are_left_alone() -> None:
    x, y = samples()
    members = hash_partition(x, y, 5).members
    train = vectorized_training(mlp, sgd=SGDSettings(epochs=2))
    torch.manual_seed(0)
    first, after_first = train(x, y, members, classes=3, seed=1), torch.rand(1)
    torch.manual_seed(0)
    assert torch.rand(1) == after_first
    second, other = (train(x, y, members, classes=3, seed=seed) for seed in (1, 2))
    assert all(same_models(first, second))
    assert not any(same_models(first, other))


def test_dropout_and_frozen_parameters() -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
        model[1].weight.requires_grad_(False)
        return model

    x, y = samples()
    members = hash_partition(x, y, 4).members
    without = vectorized_training(make, sgd=SGDSettings(epochs=1, learning_rate=1e-300))(
        x, y, members, classes=3, seed=0
    )
    trained = vectorized_training(make, sgd=SGDSettings(epochs=2))(x, y, members, classes=3, seed=0)
    before, after = weights(without), weights(trained)
    assert torch.equal(before["1.weight"], after["1.weight"])
    assert not torch.equal(before["1.bias"], after["1.bias"])
    assert torch.equal(trained.scores(x), trained.scores(x))  # nothing is dropped when predicting


def test_bytes_are_read_as_numbers_from_0_to_1() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (30, 1, 4, 4), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, 3, (30,), generator=generator)
    members = hash_partition(x, y, 3).members

    def make() -> nn.Module:
        return mlp().float()

    train = vectorized_training(make, sgd=SGDSettings(epochs=2))
    scaled = x.float() / 255
    as_bytes, as_numbers = (train(some, y, members, classes=3, seed=0) for some in (x, scaled))
    assert all(same_models(as_bytes, as_numbers))
    assert torch.equal(as_bytes.scores(x), as_numbers.scores(scaled))


def test_one_of_the_models_by_itself() -> None:
    x, y = samples()
    models = vectorized_training(conv_net, sgd=SGDSettings(epochs=1), models_at_once=2)(
        x, y, hash_partition(x, y, 5).members, classes=3, seed=0
    )
    scores = models.scores(x)
    for i in range(5):
        assert torch.allclose(models.model(i)(x), scores[:, i], atol=1e-12)
    with pytest.raises(ModelError, match="got model 5, wanted 0 to 4"):
        models.model(5)


class Counting(nn.Module):
    """Writes into a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3, dtype=torch.float64)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x.flatten(1))


SHARED = mlp()

REFUSED = {
    "batch norm": (lambda: nn.Sequential(conv_net()[0], nn.BatchNorm2d(4)), "got 1, a BatchNorm2d.*looped_training"),
    "batch norm without statistics": (
        lambda: nn.BatchNorm2d(1, track_running_stats=False),
        "got a model, a BatchNorm2d",
    ),
    "instance norm with statistics": (
        lambda: nn.InstanceNorm2d(1, track_running_stats=True, affine=True),
        "InstanceNorm2d",
    ),
    "buffers": (Counting, "writes into buffers .calls."),
    "one model for all": (lambda: SHARED, "got the same model twice"),
    "no model": (lambda: 3, "got a int, wanted a function that returns"),
    "nothing to train": (nn.Flatten, "without trainable parameters"),
    "outputs": (lambda: nn.Sequential(mlp(), nn.Linear(3, 4).double()), r"got the output \[2, 4\].*logits \[2, 3\]"),
    "samples": (lambda: nn.Linear(5, 3).double(), r"fails on samples \[2, 1, 4, 4\]"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "got lazy layers"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_trained_so_are_refused(name: str) -> None:
    make_model, message = REFUSED[name]
    x, y = samples()
    with pytest.raises(ModelError, match=message):
        vectorized_training(make_model)(x, y, hash_partition(x, y, 3).members, classes=3, seed=0)


def test_the_loop_trains_what_the_vectorized_call_refuses() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)).double()

    x, y = samples()
    members = hash_partition(x, y, 3).members
    models = looped_training(make, sgd=SGDSettings(epochs=2))(x, y, members, classes=3, seed=0)
    assert isinstance(models, ListedModels)
    assert models.scores(x).shape == (57, 3, 3)
    flat = copy.deepcopy(x[:, :, 0, 0])
    with pytest.raises(ModelError, match="fails on a batch of base model 0: Expected more than 1 value"):
        looped_training(lambda: nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 3)).double())(
            flat, y, [torch.tensor([0])], classes=3, seed=0
        )
    with pytest.raises(ModelError, match="got the same model twice"):
        looped_training(lambda: SHARED)(x, y, members, classes=3, seed=0)


def test_settings_are_validated() -> None:
    with pytest.raises(SettingError, match="epochs: got 0"):
        vectorized_training(mlp, sgd=SGDSettings(epochs=0))
    with pytest.raises(SettingError, match="models_at_once: got 0"):
        vectorized_training(mlp, models_at_once=0)
    with pytest.raises(SettingError, match="momentum: got 1"):
        looped_training(mlp, sgd=SGDSettings(momentum=1.0))
