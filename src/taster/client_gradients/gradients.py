"""One object for what clients compute: the fastest way that the model allows, checked at first use."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from taster.client_gradients.layer_hooks import hooked_gradients, unsupported_reason
from taster.client_gradients.vmapped import local_sgd_updates, vmapped_gradients
from taster.core.param_vectors import flatten
from taster.core.view import View
from taster.errors import BatchError, ModelError

_log = logging.getLogger(__name__)

BatchNormSync = Literal["recorded", "synchronized"]
"""What clients' batch norms normalize with: what the server has recorded, or all of the round's samples together."""

_CHECKED_ON = 2
"""Clients whose gradients are computed plainly too, at first use."""

_NEAR = 1e-3
"""How far the two may lie apart, relative to their size."""


@dataclass(frozen=True)
class LocalSGD:
    """What a client does before it sends anything: plain SGD on its own samples.

    Attributes:
        epochs: over its samples; 0 sends the gradient itself.
        batch_size: samples a local step; None takes all at once.
        learning_rate: of the local steps.
    """

    epochs: int = 0
    batch_size: int | None = None
    learning_rate: float = 0.1


class ClientGradients:
    """The updates of many clients as a matrix.

    Layer by layer from one pass over all samples where the model is made of layers whose products are known, else by
    `torch.func.vmap`. The first is held against automatic differentiation at its first use; where they disagree, or a
    layer is not gone through, `vmap` takes over, which `way` and `reason` tell.

    Attributes:
        way: "layers" or "vmap"; None before the first call.
        reason: why not "layers", in words.

    Args:
        statistics: of batch norm. "synchronized" takes all of a round's samples through the network at once.
        local: what a client does with its samples.
        memory: bytes that what is computed at a time may take, the matrix itself aside; synchronized statistics need
            a round's activations at once, whatever they take.

    Raises (when called):
        BatchError: when the counts do not fit the samples.
        ModelError: for synchronized statistics with local training, or with a model that only vmap can take.
    """

    def __init__(
        self, statistics: BatchNormSync = "recorded", local: LocalSGD | None = None, *, memory: int = 2**30
    ) -> None:
        self.statistics: BatchNormSync = statistics
        self.local = local or LocalSGD()
        self.memory = memory
        self.method: Literal["layers", "vmap"] | None = None
        self.reason = ""
        if self.local.epochs and statistics == "synchronized":
            raise ModelError(
                "got synchronized batch-norm statistics with local training, where clients' models differ; wanted "
                "recorded ones, or no local epochs"
            )

    def __call__(
        self, view: View, x: Tensor, y: Tensor, counts: Sequence[int], out: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What each client sends.

        Args:
            view: the server's model.
            x, y: samples [n, ...] and labels [n], client after client.
            counts: samples of each client, n in all.
            out: [m, d] to write to; None makes one.

        Returns:
            values [m, d], in the order of the model's trainable parameters; and with synchronized statistics those of
            each client [m, s], else None.
        """
        if sum(counts) != len(x) or len(x) != len(y) or min(counts, default=0) < 1:
            raise BatchError(
                f"got {len(x)} samples, {len(y)} labels and counts {list(counts)}, wanted as many samples as the "
                "counts add up to, and at least one for each client"
            )
        size = sum(value.numel() for value in view.trainable.values())
        if out is None:
            out = torch.empty(len(counts), size, dtype=x.dtype, device=x.device)
        if self.local.epochs:
            batch_size = self.local.batch_size or max(counts)
            local_sgd_updates(
                view,
                x,
                y,
                counts,
                out,
                self.memory,
                epochs=self.local.epochs,
                batch_size=batch_size,
                learning_rate=self.local.learning_rate,
            )
            return out, None
        if self.method is None:
            self._choose(view, x, y, counts)
        if self.statistics == "synchronized":
            return self._synchronized(view, x, y, counts, out)
        if self.method == "vmap":
            vmapped_gradients(view, x, y, counts, out, self.memory)
            return out, None
        done = sample = 0
        most = max(max(counts), self.memory // (_ACTIVATIONS * x[0].numel() * x.element_size()))
        while done < len(counts):
            stop, samples = done, 0
            while stop < len(counts) and samples + counts[stop] <= most:
                samples += counts[stop]
                stop += 1
            part = slice(sample, sample + samples)
            hooked_gradients(view, x[part], y[part], counts[done:stop], out[done:stop])
            done, sample = stop, sample + samples
        return out, None

    def _synchronized(
        self, view: View, x: Tensor, y: Tensor, counts: Sequence[int], out: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        if self.method == "vmap":
            raise ModelError(
                f"got synchronized batch-norm statistics with a model whose clients' gradients only vmap can compute "
                f"({self.reason}); wanted recorded ones"
            )
        _, found = hooked_gradients(view, x, y, counts, out, "train")
        return out, found

    def _choose(self, view: View, x: Tensor, y: Tensor, counts: Sequence[int]) -> None:
        """Decides on a way, on a few of the first call's clients."""
        reason = unsupported_reason(view) if x.is_floating_point() else "samples are whole numbers"
        few = counts[:_CHECKED_ON]
        x, y = x[: sum(few)], y[: sum(few)]
        if reason is None:
            found = x.new_empty(len(few), sum(value.numel() for value in view.trainable.values()))
            whole, _ = hooked_gradients(view, x, y, few, found)
            if not whole:
                reason = "a forward pass goes round some of its layers, or through them more than once"
            else:
                starts = torch.tensor([0, *few]).cumsum(0).tolist()
                parts = [slice(a, b) for a, b in pairwise(starts)]
                truth = torch.stack([flatten(view.loss_gradient(x[part], y[part])) for part in parts])
                apart = float(
                    torch.linalg.vector_norm(found - truth) / torch.linalg.vector_norm(truth).clamp_min(1e-30)
                )
                if not apart < _NEAR:
                    reason = f"layer by layer they are {apart:.2g} off"
        self.method, self.reason = ("layers", "") if reason is None else ("vmap", reason)
        if reason is not None:
            _log.info("clients' gradients are computed by vmap: %s", reason)


_ACTIVATIONS = 600
"""Numbers that a network keeps for a pass, over those of a sample, roughly."""
