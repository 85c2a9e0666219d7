"""Each client by itself, on parameters of its own: vectorized over clients by `torch.func.vmap`, or one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.func import grad, vmap

from taster.core.types import Tensors
from taster.core.view import View

GroupGradients = Callable[[Tensors, Tensor, Tensor], Tensors]
"""Maps parameters [c, ...] (or shared by all clients), samples [c, k, ...] and labels [c, k] to gradients [c, ...]."""


def vmapped_gradients(view: View, *, shared: bool) -> GroupGradients:
    """Gradients of the loss for a group of clients by `torch.func.vmap`, at the recorded statistics.

    Args:
        view: the model.
        shared: whether all clients have the same parameters, without a leading dimension.
    """
    loss = _loss_of(view)
    return vmap(grad(loss), in_dims=(None, 0, 0)) if shared else vmap(grad(loss))


def looped_gradients(view: View, *, shared: bool) -> GroupGradients:
    """As `vmapped_gradients`, by automatic differentiation of one client after the other: for any model.

    Raises (when called):
        LabelError, LossError: as in `View.loss`.
    """
    model, rest, buffers = view.functional_model, view.params, view.buffers

    def one(params: Tensors, x: Tensor, y: Tensor) -> Tensors:
        leaves = {name: p.detach().clone().requires_grad_(True) for name, p in params.items()}
        with torch.enable_grad():
            loss = model.loss({**rest, **leaves}, buffers, x, y)
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if value is None else _dense(value)
            for (name, leaf), value in zip(leaves.items(), found, strict=True)
        }

    def gradients(params: Tensors, x: Tensor, y: Tensor) -> Tensors:
        each = [
            one(params if shared else {name: p[i] for name, p in params.items()}, x[i], y[i]) for i in range(len(x))
        ]
        return {name: torch.stack([found[name] for found in each]) for name in params}

    return gradients


def write_gradients(
    view: View, group_gradients: GroupGradients, x: Tensor, y: Tensor, counts: Sequence[int], out: Tensor, memory: int
) -> None:
    """Writes the gradient of each client's loss to its row of `out` [m, d].

    Args:
        view: the model.
        group_gradients: for shared parameters.
        x, y: samples [n, ...] and labels, client after client.
        counts: samples of each client.
        out: [m, d].
        memory: bytes that the gradients of the clients computed at a time may take.
    """
    params = view.trainable
    for clients, own_x, own_y in _groups(x, y, counts, memory, out):
        _write(out, clients, group_gradients(params, own_x, own_y))


def local_sgd_updates(
    view: View,
    group_gradients: GroupGradients,
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
    """Writes the result of plain SGD on each client's own samples, (θ − θ_client) / learning rate, to its row of `out`.

    One epoch over one batch is the gradient. Samples are visited in the order given, at the recorded statistics.

    Args:
        view: the model.
        group_gradients: for parameters of each client's own.
        x, y: samples [n, ...] and labels, client after client.
        counts: samples of each client.
        out: [m, d].
        memory: bytes that the parameters of the clients trained at a time may take.
        epochs: over each client's samples.
        batch_size: samples in a local step.
        learning_rate: of the local steps.

    Source: McMahan et al. 2017, Algorithm 1 ("FedAvg"), its result in the units of a gradient.
    """
    params = view.trainable
    for clients, own_x, own_y in _groups(x, y, counts, memory, out):
        local = {name: value.expand(len(clients), *value.shape).clone() for name, value in params.items()}
        for _ in range(epochs):
            for some_x, some_y in zip(
                torch.split(own_x, batch_size, 1), torch.split(own_y, batch_size, 1), strict=True
            ):
                for name, gradient in group_gradients(local, some_x, some_y).items():
                    local[name] -= learning_rate * gradient
        _write(out, clients, {name: (params[name] - local[name]) / learning_rate for name in params})


def _loss_of(view: View) -> Callable[[Tensors, Tensor, Tensor], Tensor]:
    model, rest, buffers = view.functional_model, view.params, view.buffers

    def loss(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
        # Called without checks of labels, which would read values: there are none under vmap.
        return model.criterion(model.forward({**rest, **params}, buffers, x), y)

    return loss


def _groups(
    x: Tensor, y: Tensor, counts: Sequence[int], memory: int, out: Tensor
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Groups of clients with equally many samples, as large as memory allows: their places, [c, k, ...] and [c, k]."""
    starts = torch.tensor([0, *counts]).cumsum(0).tolist()
    alike: defaultdict[int, list[int]] = defaultdict(list)
    for client, count in enumerate(counts):
        alike[count].append(client)
    most = max(1, memory // (out.element_size() * out.shape[1]))
    for count, members in alike.items():
        for i in range(0, len(members), most):
            clients = members[i : i + most]
            index = torch.tensor([[starts[c] + j for j in range(count)] for c in clients], device=x.device)
            yield clients, x[index], y[index]


def _write(out: Tensor, clients: list[int], gradients: Tensors) -> None:
    start = 0
    index = torch.tensor(clients, device=out.device)
    for value in gradients.values():
        flat = value.reshape(len(clients), -1)
        out[index, start : start + flat.shape[1]] = flat.to(out.dtype)
        start += flat.shape[1]


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout is torch.strided else tensor.to_dense()
