"""The learner's model as a pure function of parameters, buffers and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from taster.core.losses import Loss, sample_losses, scalar_loss
from taster.core.skeleton import Skeleton
from taster.errors import ModelError

BatchNormMode = Literal["eval", "train"]
"""Normalise with the recorded statistics, or with those of the batch itself."""

Precision = Literal["float32", "bfloat16", "float16"]
"""Number format of the forward pass; parameters, losses and optimizer state stay as they are."""

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


_INPUT = "(samples)"
"""Stands for the samples beside the names of parameters; no parameter can have it."""

_IN_VIEW: ContextVar[bool] = ContextVar("in_view", default=False)


def in_view() -> bool:
    """Whether the forward pass that is running is one of a `View`: of a gate, a screen or an attacker, and not of
    training. For forward hooks that record what the model learns from."""
    return _IN_VIEW.get()


@contextmanager
def _inside_view() -> Iterator[None]:
    token = _IN_VIEW.set(True)
    try:
        yield
    finally:
        _IN_VIEW.reset(token)


LayerHook = Callable[[str, nn.Module, Tensor, Tensor], None]
"""Called with a module's name, the module, its input and its output."""


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass in the given precision."""
    return torch.autocast(device.type, dtype=_HALF.get(precision), enabled=precision in _HALF)


class FunctionalModel:
    """A model without state of its own: everything it computes with is handed in.

    It computes with a `Skeleton` of the model: layers, attributes and flags as the model has them now, without tensors.
    Its train or eval mode, its buffers and whatever a forward pass writes into parameters never reach the model.
    Dropout and everything else that is random is off; batch norm goes by the mode asked for. The model's forward hooks
    run here as well, since they may change what it computes; a hook that only records can ask `in_view()`.

    Args:
        model: any module; parameters may be shared.
        loss: loss of (output, y).
        precision: of the forward pass; "float32" leaves an autocast that is in force unchanged.

    Raises:
        ModelError: when the module cannot be copied.
    """

    def __init__(self, model: nn.Module, loss: Loss, precision: Precision = "float32") -> None:
        self._loss = loss
        self._precision: Precision = precision
        self._structure = Skeleton(model)
        self._written: frozenset[str] | None = None

    def follow(self, loss: Loss) -> None:
        """Brings structure and loss up to date with the model's."""
        self._loss = loss
        if self._structure.follow():
            self._written = None

    @property
    def trainable(self) -> frozenset[str]:
        """Names of the parameters that require a gradient."""
        return self._structure.trainable

    def forward(
        self,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        x: Tensor,
        *,
        batch_norm: BatchNormMode = "eval",
    ) -> Tensor:
        """The model's output in float32 (or wider), differentiable in `params` and `x`; neither these nor `buffers` are
        changed."""
        own: dict[str, Tensor | None] = dict.fromkeys(self._structure.buffer_names)
        own |= {name: buffer.clone() for name, buffer in buffers.items()}
        for module in self._structure.batch_norms:
            module.training = batch_norm == "train"
        # In float32 an autocast around the call stays in force: crafting computes in half precision that way.
        half = autocast(x.device, self._precision) if self._precision != "float32" else nullcontext()
        # Fused attention kernels have no second derivative; the plain one has.
        with half, sdpa_kernel(SDPBackend.MATH), _inside_view(), self._unwritable({**params, _INPUT: x}) as given:
            x = given.pop(_INPUT)
            output = functional_call(self._structure.module, {**given, **own}, (x,))  # type: ignore[dict-item]
        return to_float32(output)

    @contextmanager
    def _unwritable(self, params: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Parameters and samples for one forward pass: copies of those that a pass writes into, as `max_norm` does.

        The first pass has copies of all, and shows which they are.
        """
        copied = {name: p.clone() for name, p in params.items() if self._written is None or name in self._written}
        yield {**params, **copied}
        if self._written is None:
            self._written = frozenset(name for name, p in copied.items() if p._version)

    def features(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor, layer: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """What a layer puts out, [n, d], and the model's output, [n, classes].

        Args:
            params, buffers: as in `forward`.
            x: samples.
            layer: name of a submodule; its output is averaged over places where it has any. None takes what goes into
                the last linear layer.

        Raises:
            ModelError: when there is no such layer, it puts out something else, or is not gone through.
        """
        modules = dict(self._structure.module.named_modules())
        found: list[Tensor] = []
        if layer is None:
            linear = [module for module in modules.values() if isinstance(module, nn.Linear)]
            if not linear:
                raise ModelError("the model has no linear layer whose input could be taken; name a layer")
            hook = linear[-1].register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        elif layer in modules:
            hook = modules[layer].register_forward_hook(lambda _, __, output: found.append(output))
        else:
            raise ModelError(f"layer: got {layer!r}, wanted one of {', '.join(name for name in modules if name)}")
        try:
            output = self.forward(params, buffers, x)
        finally:
            hook.remove()
        if not found or not isinstance(found[-1], Tensor) or found[-1].dim() < 2 or len(found[-1]) != len(x):
            raise ModelError(f"layer: {layer or 'the last linear one'} gives no features, one row a sample")
        rows = to_float32(found[-1])
        # [n, d] as they are; [n, d, places...] of a convolution averaged over places
        return (rows if rows.dim() == 2 else rows.flatten(2).mean(2)), output

    @property
    def criterion(self) -> Loss:
        """The loss."""
        return self._loss

    @property
    def layers(self) -> dict[str, nn.Module]:
        """The modules that hold parameters of their own, by name; their tensors are on the meta device."""
        return {name: module for name, module in self._structure.module.named_modules() if module._parameters}

    @contextmanager
    def layer_hooks(self, watch: LayerHook) -> Iterator[None]:
        """Inside, `watch` is told of each such module that a forward pass goes through: its name, the module with what
        it computes with in place, its input and its output."""
        hooks = [
            module.register_forward_hook(
                lambda module, inputs, output, name=name: watch(name, module, inputs[0], output)
            )
            for name, module in self.layers.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def loss(
        self,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        x: Tensor,
        y: Tensor,
        *,
        batch_norm: BatchNormMode = "eval",
    ) -> Tensor:
        """The loss of a batch, one number."""
        return scalar_loss(self._loss, self.forward(params, buffers, x, batch_norm=batch_norm), y)

    def sample_losses(
        self,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        x: Tensor,
        y: Tensor,
        *,
        batch_norm: BatchNormMode = "eval",
    ) -> Tensor:
        """The loss of each sample, [n]."""
        return self.losses(self.forward(params, buffers, x, batch_norm=batch_norm), y)

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """The loss of each sample, [n], from the model's output."""
        return sample_losses(self._loss, output, y)


def to_float32(output: Tensor) -> Tensor:
    """A half-precision output widened to float32, so that losses are computed in full."""
    if not isinstance(output, Tensor):
        raise ModelError(f"the model returned {type(output).__name__}, wanted one torch.Tensor")
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
