"""The autoencoder is trained, and so is the generator that it becomes."""

from __future__ import annotations

import copy

import torch
from tests.attacks.conftest import easy_batch
from torch import nn

from taster.attacks.autoencoder import GeneratorTrainer, pretrain_autoencoder


def test_the_autoencoder_learns_and_leaves_the_global_generator_alone() -> None:
    x, state = easy_batch(100, seed=3).x, torch.get_rng_state()

    def made(epochs: int, seed: int = 0) -> torch.Tensor:
        model = pretrain_autoencoder(x, [24, 24], epochs, torch.Generator().manual_seed(seed), 0.0, 1.0)
        assert len([layer for layer in model.layers if isinstance(layer, nn.Linear)]) == 3
        with torch.no_grad():
            return model(x)

    untrained, trained = made(0), made(60)
    assert trained.shape == x.shape
    assert float((trained - x).square().mean()) < 0.3 * float((untrained - x).square().mean())
    assert torch.equal(made(2), made(2))
    assert not torch.equal(made(2), made(2, seed=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_training_moves_a_copy_of_the_generator() -> None:
    x = easy_batch(2, seed=3).x
    model = pretrain_autoencoder(x, [12], 1, torch.Generator().manual_seed(0), 0.0, 1.0)
    before = copy.deepcopy(model.state_dict())
    upstream = torch.zeros_like(x)
    upstream[:, :, 0] = 1.0
    maker = GeneratorTrainer(model, 1e-2)
    made = [maker.step(x, upstream) for _ in range(5)]
    assert float(made[-1][:, :, 0].mean()) > float(made[0][:, :, 0].mean())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
