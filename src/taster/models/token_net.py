"""A small classifier of texts: the mean of the tokens' vectors through a fully connected network."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from taster.errors import ModelError
from taster.utils.settings import validate_settings


class TokenNet(nn.Module):
    """Token ids through an embedding, the mean over a text's tokens, and a fully connected network.

    Args:
        vocabulary: number of tokens. The id 0 fills texts up and is no part of the mean.
        classes: number of outputs.
        width: of a token's vector.
        hidden: units of the hidden layer.
    """

    def __init__(self, vocabulary: int, classes: int, width: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Scores [n, classes] of texts, int64 [n, length]."""
        there = (x != 0)[..., None]
        mean = (self.embedding(x) * there).sum(1) / there.sum(1).clamp_min(1)
        scores: Tensor = self.head(mean)
        return scores


@validate_settings
def token_net(
    shape: tuple[int, ...],
    classes: int,
    vocabulary: int | None = None,
    *,
    width: Annotated[int, Field(ge=1)] = 32,
    hidden: Annotated[int, Field(ge=1)] = 32,
) -> TokenNet:
    """A classifier of texts as token ids: the mean of the tokens' vectors through one hidden layer.

    Args:
        shape: number of tokens of a text.
        classes: number of outputs.
        vocabulary: number of tokens.
        width: of a token's vector.
        hidden: units of the hidden layer.

    Raises:
        ModelError: for samples that are no token ids.

    Source: a deep averaging network (Iyyer et al. 2015) of one hidden layer.
    """
    if vocabulary is None:
        raise ModelError(
            f"token_net: got samples {list(shape)} that are no token ids, wanted texts: data.table with a column "
            '`text` and words = "tokens"'
        )
    # Vectors a tenth as long as torch draws them, so that a mean of few words begins near that of others.
    net = TokenNet(vocabulary, classes, width, hidden)
    with torch.no_grad():
        net.embedding.weight.mul_(0.1)
    return net
