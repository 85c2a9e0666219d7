"""One object for what clients compute: the fastest method that the model allows, checked at first use."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from taster.client_gradients.layer_hooks import hooked_gradients, unsupported_reason
from taster.client_gradients.vmapped import (
    GroupGradients,
    local_sgd_updates,
    looped_gradients,
    vmapped_gradients,
    write_gradients,
)
from taster.core.types import BatchNormMode
from taster.core.view import View
from taster.errors import BatchError, ModelError

_log = logging.getLogger(__name__)

BatchNormSync = Literal["recorded", "synchronized"]
"""What clients' batch norms normalize with: the server's recorded statistics, or all samples of the round together."""

Method = Literal["layers", "vmap", "loop"]
"""How gradients are computed: layer by layer from one pass, by `torch.func.vmap`, or one client after the other."""

_CHECKED_ON = 2
"""Clients whose gradients are computed one by one too, at first use."""

_NEAR = 1e-3
"""Largest relative difference between the two."""

_ACTIVATIONS = 600
"""Rough estimate of the numbers that a network keeps for a backward pass, for each number of a sample."""


@dataclass(frozen=True)
class LocalSGD:
    """Local training of a client before it sends anything: plain SGD on its own samples.

    Attributes:
        epochs: over its samples; 0 sends the gradient itself.
        batch_size: samples in a local step; None takes all at once.
        learning_rate: of the local steps.
    """

    epochs: int = 0
    batch_size: int | None = None
    learning_rate: float = 0.1


class ClientGradients:
    """The updates of many clients as a matrix.

    The first call tries three methods in turn: layer by layer from one pass over all samples ("layers"), for models
    made of layers with known rules; `torch.func.vmap` ("vmap"); and automatic differentiation of one client after the
    other ("loop"), which any model allows. A method is used when it runs and agrees with the loop on a few clients.
    Which one was chosen is in `method` and, where it is not the first, logged with the reason.

    Attributes:
        method: "layers", "vmap" or "loop"; None before the first call.
        reason: why faster methods are not used, in words.

    Args:
        statistics: of batch norm. "synchronized" runs all samples of a round through the network at once.
        local: local training of each client.
        memory: bytes for what is computed at a time, beside the matrix itself. Synchronized statistics keep the
            activations of a whole round, whatever they take.

    Raises (when called):
        BatchError: when the counts do not fit the samples.
        ModelError: for synchronized statistics with local training, or with a model that "layers" cannot compute.
    """

    def __init__(
        self, statistics: BatchNormSync = "recorded", local: LocalSGD | None = None, *, memory: int = 2**30
    ) -> None:
        self.statistics: BatchNormSync = statistics
        self.local: LocalSGD = local or LocalSGD()
        self.memory = memory
        self.method: Method | None = None
        self.reason = ""
        if self.local.epochs and statistics == "synchronized":
            raise ModelError(
                "got synchronized batch-norm statistics with local training, where clients' models differ; wanted "
                "recorded ones, or no local epochs"
            )

    @property
    def batch_norm(self) -> BatchNormMode:
        """The batch-norm statistics that updates are computed with, in a `View`'s words."""
        return "train" if self.statistics == "synchronized" else "eval"

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
            values [m, d], in the order of the model's trainable parameters, in their dtype; and with synchronized
            statistics those of each client [m, s], else None.
        """
        if sum(counts) != len(x) or len(x) != len(y) or min(counts, default=0) < 1:
            raise BatchError(
                f"got {len(x)} samples, {len(y)} labels and counts {list(counts)}, wanted as many samples as the "
                "counts add up to, and at least one for each client"
            )
        if out is None:
            out = empty_updates(view, len(counts))
        method = self.method or self._choose(view, x, y, counts)
        if self.statistics == "synchronized":
            if method != "layers":
                raise ModelError(
                    f"got synchronized batch-norm statistics with a model whose clients' gradients need {method!r} "
                    f"({self.reason}); wanted recorded ones"
                )
            return out, hooked_gradients(view, x, y, counts, out, self.batch_norm)[1]
        if self.local.epochs:
            batch_size = self.local.batch_size or max(counts)
            local_sgd_updates(
                view,
                _group_gradients(view, method, shared=False),
                x,
                y,
                counts,
                out,
                self.memory,
                epochs=self.local.epochs,
                batch_size=batch_size,
                learning_rate=self.local.learning_rate,
            )
        elif method == "layers":
            self._by_layers(view, x, y, counts, out)
        else:
            write_gradients(view, _group_gradients(view, method, shared=True), x, y, counts, out, self.memory)
        return out, None

    def _by_layers(self, view: View, x: Tensor, y: Tensor, counts: Sequence[int], out: Tensor) -> None:
        """Layer by layer, as many clients at a time as memory allows."""
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

    def _choose(self, view: View, x: Tensor, y: Tensor, counts: Sequence[int]) -> Method:
        """The fastest method that agrees with the loop on a few clients of this call."""
        few = counts[:_CHECKED_ON]
        x, y = x[: sum(few)], y[: sum(few)]
        truth = empty_updates(view, len(few))
        write_gradients(view, looped_gradients(view, shared=True), x, y, few, truth, self.memory)
        reasons = []
        candidates: tuple[Method, ...] = ("vmap",) if self.local.epochs else ("layers", "vmap")
        for method in candidates:
            reason = self._disagreement(method, view, x, y, few, truth)
            if reason is None:
                break
            reasons.append(f"{method}: {reason}")
        else:
            method = "loop"
        self.reason = "; ".join(reasons)
        if reasons:
            _log.info("clients' gradients are computed by %s: %s", method, self.reason)
        if bool(truth.isfinite().all()):  # otherwise nothing could be compared: the next call decides
            self.method = method
        return method

    def _disagreement(
        self, method: Method, view: View, x: Tensor, y: Tensor, counts: Sequence[int], truth: Tensor
    ) -> str | None:
        """Why a method cannot be used, in words; None where it agrees with the truth [m, d]."""
        found = torch.empty_like(truth)
        try:
            if method == "layers":
                reason = unsupported_reason(view) if x.is_floating_point() else "samples are whole numbers"
                if reason is not None:
                    return reason
                if not hooked_gradients(view, x, y, counts, found)[0]:
                    return "a forward pass bypasses some of its layers, or calls them more than once"
            else:
                write_gradients(view, _group_gradients(view, method, shared=True), x, y, counts, found, self.memory)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model of any kind does under hooks or vmap
            return f"failed with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        apart = float(torch.linalg.vector_norm(found - truth) / torch.linalg.vector_norm(truth).clamp_min(1e-30))
        return None if apart < _NEAR else f"its gradients are {apart:.2g} off"


def empty_updates(view: View, clients: int) -> Tensor:
    """An uninitialized matrix [m, d] for the model's trainable parameters, of their dtype and on their device."""
    params = list(view.trainable.values())
    if not params:
        raise ModelError("got a model without trainable parameters, wanted at least one for clients to update")
    return params[0].new_empty(clients, sum(value.numel() for value in params))


def _group_gradients(view: View, method: Method, *, shared: bool) -> GroupGradients:
    make = looped_gradients if method == "loop" else vmapped_gradients
    return make(view, shared=shared)
