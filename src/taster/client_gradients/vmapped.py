"""Each client by itself on parameters of its own, vectorized over clients: for any model, and for local training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.func import grad, vmap

from taster.core.types import Tensors
from taster.core.view import View


def vmapped_gradients(view: View, x: Tensor, y: Tensor, counts: Sequence[int], out: Tensor, memory: int) -> None:
    """Writes the gradient of each client's mean loss to its row of `out` [m, d], at the recorded statistics.

    Args:
        view: the model.
        x, y: samples [n, ...] and labels, client after client.
        counts: samples of each client.
        out: [m, d].
        memory: bytes that the gradients of the clients computed at a time may take.
    """
    params, slopes = view.trainable, vmap(grad(_loss_of(view)), in_dims=(None, 0, 0))
    for clients, own_x, own_y in _groups(x, y, counts, memory, out.shape[1]):
        _write(out, clients, slopes(params, own_x, own_y))


def local_sgd_updates(
    view: View,
    x: Tensor,
    y: Tensor,
    counts: Sequence[int],
    out: Tensor,
    memory: int,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> None:
    """Writes what plain SGD on each client's own samples comes to: (θ − θ_client) / learning rate, to its row of `out`.

    One epoch over one batch is the gradient. Samples are gone through in the order given, at the recorded statistics.

    Args:
        view: the model.
        x, y: samples [n, ...] and labels, client after client.
        counts: samples of each client.
        out: [m, d].
        memory: bytes that the parameters of the clients trained at a time may take.
        epochs: over each client's samples.
        batch_size: samples a local step.
        learning_rate: of the local steps.

    Source: McMahan et al. 2017, Algorithm 1 ("FedAvg"), its result in the units of a gradient.
    """
    params, slopes = view.trainable, vmap(grad(_loss_of(view)))
    for clients, own_x, own_y in _groups(x, y, counts, memory, out.shape[1]):
        local = {name: value.expand(len(clients), *value.shape).clone() for name, value in params.items()}
        for _ in range(epochs):
            for some_x, some_y in zip(
                torch.split(own_x, batch_size, 1), torch.split(own_y, batch_size, 1), strict=True
            ):
                for name, slope in slopes(local, some_x, some_y).items():
                    local[name] -= learning_rate * slope
        _write(out, clients, {name: (params[name] - local[name]) / learning_rate for name in params})


def _loss_of(view: View) -> Callable[[Tensors, Tensor, Tensor], Tensor]:
    functional, rest, buffers = view.functional_model, view.params, view.buffers

    def loss(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
        # Called as it is: checks of labels would look at values, which there are none of under vmap.
        return functional.criterion(functional.forward({**rest, **params}, buffers, x), y)

    return loss


def _groups(
    x: Tensor, y: Tensor, counts: Sequence[int], memory: int, size: int
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Clients with as many samples as each other, as many at a time as memory allows: their places, [c, k, ...]."""
    starts = torch.tensor([0, *counts]).cumsum(0).tolist()
    alike: defaultdict[int, list[int]] = defaultdict(list)
    for client, count in enumerate(counts):
        alike[count].append(client)
    most = max(1, memory // (x.element_size() * size))
    for count, members in alike.items():
        for i in range(0, len(members), most):
            clients = members[i : i + most]
            index = torch.tensor([[starts[c] + j for j in range(count)] for c in clients], device=x.device)
            yield clients, x[index], y[index]


def _write(out: Tensor, clients: list[int], slopes: Tensors) -> None:
    start = 0
    index = torch.tensor(clients, device=out.device)
    for value in slopes.values():
        flat = value.reshape(len(clients), -1)
        out[index, start : start + flat.shape[1]] = flat.to(out.dtype)
        start += flat.shape[1]
