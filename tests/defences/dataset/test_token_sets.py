"""Defences of training sets whose samples are token ids, which only the model can read."""

from __future__ import annotations

import pytest
import torch
from tests.attacks.token_problems import LENGTH, WORDS, texts
from tests.defences.dataset.conftest import accuracy, defended, run_of

from taster import Batch
from taster.core.training_settings import TrainingSettings
from taster.defences import DATASET_DEFENCES, adversarial_training, trimmed_loss
from taster.errors import BatchError
from taster.models import token_net
from taster.offline import NetTraining


def fit() -> NetTraining:
    def make(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return token_net((LENGTH,), 2, WORDS, width=5, hidden=6)

    return NetTraining(make, TrainingSettings(epochs=8, batch_size=20, learning_rate=0.5, decay="none"))


def test_trimmed_loss_leaves_out_wrong_labels_of_texts() -> None:
    clean = texts(200)
    wrong = torch.arange(200) < 20
    samples = Batch(clean.x, torch.where(wrong, 1 - clean.y, clean.y))
    found, weights = defended(trimmed_loss(keep=0.9), run_of(samples, texts(40, seed=1), fit(), classes=2))
    assert weights is not None
    assert float((weights[wrong] == 0).float().mean()) > 0.5  # by chance a tenth
    assert accuracy(found, texts(200, seed=2)) > 0.9


def test_what_moves_samples_refuses_ids() -> None:
    assert "adversarial_training" in DATASET_DEFENCES
    with pytest.raises(BatchError, match=r"of torch\.int64, wanted samples \[n, \.\.\.\], floating point or uint8"):
        defended(adversarial_training(), run_of(texts(40), texts(20, seed=1), fit(), classes=2))
