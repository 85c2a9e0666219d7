"""The net of tokens: padding has no part in it, and samples that are no ids are refused."""

from __future__ import annotations

import pytest
import torch

from taster.errors import ModelError
from taster.models import token_net


def test_padding_and_the_order_of_words_do_not_matter() -> None:
    torch.manual_seed(0)
    net = token_net((4,), 3, 10, width=5)
    x = torch.tensor([[3, 4, 0, 0], [4, 3, 0, 0], [3, 4, 3, 4], [3, 5, 0, 0]])
    scores = net(x)
    assert scores.shape == (4, 3)
    assert torch.allclose(scores[0], scores[1])
    assert torch.allclose(scores[0], scores[2])
    assert not torch.allclose(scores[0], scores[3])
    assert torch.allclose(scores[:1], net(x[:1, :2]))


def test_an_empty_text_has_finite_scores() -> None:
    assert bool(token_net((4,), 3, 10)(torch.zeros(2, 4).long()).isfinite().all())


def test_images_are_refused() -> None:
    with pytest.raises(ModelError, match='words = "tokens"'):
        token_net((1, 8, 8), 10)
