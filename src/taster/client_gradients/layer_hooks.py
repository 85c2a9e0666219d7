"""All clients' gradients from one forward and one backward pass, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from taster.client_gradients.grad_sample_rules import Rows, gradient_writer, has_rule, per_client
from taster.core.functional_model import BatchNormMode
from taster.core.losses import sample_losses
from taster.core.types import Tensors
from taster.core.view import View


def unsupported_reason(view: View) -> str | None:
    """Why this way cannot be taken with the model, in words; None where it can."""
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

    In mode "train" all samples are normalized together, as where clients synchronise the statistics of a round, and
    slopes flow back through them to every client's samples: the mean of the rows is the gradient of the mean loss.

    Args:
        view: the model.
        x, y: samples [n, ...] and labels, client after client.
        counts: samples of each client.
        out: [m, d].
        batch_norm: as in `View.forward`.

    Returns:
        whether every parameter was written, which is not so where a forward pass goes round a layer; and in mode
        "train" each client's own statistics [m, s]: of each batch norm's input in turn mean, variance and count.
    """
    params = view.trainable
    rows = {name: torch.empty(0) for name in params}
    start = 0
    for name, value in params.items():
        rows[name] = out[:, start : start + value.numel()].view(len(out), *value.shape)
        start += value.numel()
    written: list[str] = []
    statistics: list[Tensor] = []

    def watch(name: str, layer: nn.Module, given: Tensor, output: Tensor) -> None:
        prefix = f"{name}." if name else ""
        own: Rows = {key: rows[prefix + key] for key in layer._parameters if prefix + key in rows}
        if batch_norm == "train" and isinstance(layer, _BatchNorm):
            statistics.extend(_moments(given.detach(), counts))
        if not own:
            return
        write = gradient_writer(layer, given.detach(), counts, own)

        def on_slope(slope: Tensor) -> None:
            write(slope)
            written.extend(prefix + key for key in own)

        output.register_hook(on_slope)  # type: ignore[no-untyped-call]

    leaf = x.detach().requires_grad_(True)  # so that slopes flow, though no parameter asks for them
    buffers = view.buffers
    with torch.enable_grad(), view.functional_model.layer_hooks(watch):
        output = view.functional_model.forward({**view.params}, buffers, leaf, batch_norm=batch_norm)
        losses = sample_losses(view.functional_model.criterion, output, y)
        shares = torch.tensor([1 / count for count in counts], device=x.device, dtype=losses.dtype)
        total = (losses * shares.repeat_interleave(torch.tensor(counts, device=x.device))).sum()
        torch.autograd.grad(total, leaf)
    return sorted(written) == sorted(params), torch.cat(statistics, 1) if statistics else None


def merge_statistics(buffers: Tensors, layers: dict[str, nn.Module], statistics: Tensor) -> Tensors:
    """A model's buffers after a round of these statistics: what batch norm would have recorded of all samples together.

    Args:
        buffers: before the round, by name.
        layers: of the model, `Functional.layers`.
        statistics: [m, s], see `hooked_gradients`.
    """
    found = dict(buffers)
    start = 0
    for name, layer in layers.items():
        if not isinstance(layer, _BatchNorm) or layer.running_mean is None:
            continue
        sizes = [layer.num_features, layer.num_features, 1]
        means, variances, numbers = torch.split(statistics[:, start : start + sum(sizes)], sizes, dim=1)
        start += sum(sizes)
        total = numbers.sum()
        shares = (numbers / total).squeeze(1)
        mean = shares @ means
        # The variance of all is the mean of those within and that between; torch records it corrected for the count.
        variance = shares @ (variances + (means - mean).square()) * (total / (total - 1).clamp_min(1))
        prefix = f"{name}." if name else ""
        count = buffers[prefix + "num_batches_tracked"] + 1
        momentum = 1 / float(count) if layer.momentum is None else layer.momentum
        for key, value in (("running_mean", mean), ("running_var", variance)):
            found[prefix + key] = torch.lerp(buffers[prefix + key], value.to(buffers[prefix + key].dtype), momentum)
        found[prefix + "num_batches_tracked"] = count
    return found


def _moments(x: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Mean and variance [m, c] of each client's own values, by channel, and how many there are, [m, 1]."""
    places = x[0, 0].numel()
    values = x.reshape(len(x), x.shape[1], -1)
    numbers = torch.tensor([count * places for count in counts], device=x.device, dtype=x.dtype)[:, None]
    means = per_client(values.sum(2), counts) / numbers
    at = means.repeat_interleave(torch.tensor(counts, device=x.device), dim=0)[:, :, None]
    return [means, per_client((values - at).square().sum(2), counts) / numbers, numbers]
