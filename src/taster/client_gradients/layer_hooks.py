"""All clients' gradients from one forward and one backward pass, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from taster.client_gradients.batch_norm import client_statistics, join_statistics
from taster.client_gradients.grad_sample_rules import Rows, gradient_writer, has_rule
from taster.core.losses import Loss, sample_losses
from taster.core.types import BatchNormMode
from taster.core.view import View
from taster.errors import ModelError


def unsupported_reason(view: View) -> str | None:
    """Why layer hooks cannot compute the model's gradients, in words; None where they can."""
    layers = view.functional_model.layers
    owned: dict[int, str] = {}
    for name, layer in layers.items():
        for own, parameter in layer._parameters.items():
            if parameter is None or not parameter.requires_grad:
                continue
            if not has_rule(layer):
                return f"{name} is a {type(layer).__name__}"
            if id(parameter) in owned:
                return f"{name}.{own} is {owned[id(parameter)]} as well"
            owned[id(parameter)] = f"{name}.{own}"
    return None


def hooked_gradients(
    view: View, x: Tensor, y: Tensor, counts: Sequence[int], out: Tensor, batch_norm: BatchNormMode = "eval"
) -> tuple[bool, Tensor | None]:
    """Writes the gradient of each client's mean loss to its row of `out`.

    In mode "train" all samples are normalized together, as where clients synchronize the statistics of a round, and
    gradients flow back through them to every client's samples: the mean of the rows is the gradient of the mean loss.

    Args:
        view: the model.
        x, y: samples [n, ...] and labels, client after client.
        counts: samples of each client.
        out: [m, d].
        batch_norm: as in `View.forward`.

    Returns:
        whether every parameter was written, which fails where a forward pass bypasses a layer; and in mode "train" each
        client's own batch-norm statistics [m, s], see `taster.client_gradients.batch_norm`.

    Raises:
        ModelError: in mode "train", for a batch norm that is called more than once, or not at all.
    """
    params = view.trainable
    rows = {name: torch.empty(0) for name in params}
    start = 0
    for name, value in params.items():
        rows[name] = out[:, start : start + value.numel()].view(len(out), *value.shape)
        start += value.numel()
    written: list[str] = []
    statistics: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module, given: Tensor, output: Tensor) -> None:
        prefix = f"{name}." if name else ""
        own: Rows = {key: rows[prefix + key] for key in layer._parameters if prefix + key in rows}
        if batch_norm == "train" and isinstance(layer, _BatchNorm):
            if name in statistics:
                raise ModelError(f"got the batch norm {name} called twice in a forward pass, wanted once")
            statistics[name] = client_statistics(given.detach(), counts)
        if not own:
            return
        write = gradient_writer(layer, given.detach(), counts, own)

        def on_gradient(gradient: Tensor) -> None:
            write(gradient)
            written.extend(prefix + key for key in own)

        output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

    leaf = x.detach().requires_grad_(True)  # so that gradients flow, though no parameter requires one
    buffers, model = view.buffers, view.functional_model
    with torch.enable_grad(), model.layer_hooks(watch):
        output = model.forward({**view.params}, buffers, leaf, batch_norm=batch_norm)
        losses = _losses(model.criterion, output, y, counts)
        shares = torch.tensor([1 / count for count in counts], device=x.device, dtype=losses.dtype)
        total = (losses * shares.repeat_interleave(torch.tensor(counts, device=x.device))).sum()
        torch.autograd.grad(total, leaf)
    joined = join_statistics(statistics, model.layers.items()) if batch_norm == "train" else None
    return sorted(written) == sorted(params), joined


def _losses(loss: Loss, output: Tensor, y: Tensor, counts: Sequence[int]) -> Tensor:
    """The loss of each sample, [n], on the scale of its client's loss."""
    plain = loss is cross_entropy or (
        type(loss) is nn.CrossEntropyLoss and loss.weight is None and loss.reduction == "mean"
    )
    ignored = getattr(loss, "ignore_index", -100)
    if plain and (y.is_floating_point() or not bool((y == ignored).any())):
        return sample_losses(loss, output, y)
    # Class weights, ignored labels and sums make the scale depend on which samples a loss is of.
    parts = zip(torch.split(output, list(counts)), torch.split(y, list(counts)), strict=True)
    return torch.cat([sample_losses(loss, own, labels) for own, labels in parts])
