"""What server and clients share: the model, the data and who has what of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taster import Batch
from taster.data import Images, as_batch, load_images
from taster.federated import iid_partition
from taster.models import MODELS
from taster.utils.seeds import generator

RATE, EPOCHS, BATCH_SIZE = 0.1, 1, 32
PROBE = 100


def make_model() -> nn.Module:
    """The same weights in every process."""
    torch.manual_seed(0)
    model: nn.Module = MODELS["mlp"]((1, 8, 8), 10, hidden=[32])
    return model


def client_images() -> Images:
    """All samples that clients have between them."""
    return load_images("digits").train.select(torch.arange(200, 1500))


def shares(nodes: int) -> list[Tensor]:
    """Which of them each node has."""
    return iid_partition(len(client_images()), nodes, generator(0, "clients' shares"))


def trusted() -> Batch:
    """The server's own samples."""
    return as_batch(load_images("digits").train.select(torch.arange(PROBE)))


def tested() -> Batch:
    """Samples that nobody learns."""
    return as_batch(load_images("digits").train.select(torch.arange(PROBE, 200)))
