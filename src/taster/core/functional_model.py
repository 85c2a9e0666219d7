"""The learner's model as a pure function of parameters, buffers and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from taster.core.foreach import cloned_tensors
from taster.core.host import Readings
from taster.core.losses import AnyLoss, KnownLabels
from taster.core.nested import Nested, map_leaves, tensors_in
from taster.core.objective import Objective, to_float32
from taster.core.skeleton import structure_of
from taster.core.types import BatchNormMode, Tensors
from taster.errors import LossError, ModelError

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


def set_in_view(inside: bool) -> None:
    """Sets what `in_view` says."""
    _IN_VIEW.set(inside)


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
    Its train or eval mode, its buffers and whatever a forward pass writes into parameters never reach the model. One
    that cannot be copied computes itself, in eval mode and with the tensors handed in: then what a forward pass writes
    into plain attributes stays.
    Dropout and everything else that is random is off; batch norm goes by the mode asked for. The model's forward hooks
    run here as well, since they may change what it computes; a hook that only records can ask `in_view()`.

    Args:
        model: any module; parameters may be shared.
        objective: how it is called, and its loss.
        precision: of the forward pass; "float32" leaves an autocast that is in force unchanged.

    Raises:
        ModelError: for parameters in places where other values could not be put.
    """

    def __init__(self, model: nn.Module, objective: Objective, precision: Precision = "float32") -> None:
        self._objective = objective
        self._precision: Precision = precision
        self._structure = structure_of(model)
        self._written: frozenset[str] | None = None

    def follow(self, objective: Objective) -> None:
        """Brings structure and loss up to date with the model's."""
        self._objective = objective
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
        x: Nested,
        y: Nested = None,
        *,
        batch_norm: BatchNormMode = "eval",
        then: Callable[[Any], Any] = lambda output: output,
    ) -> Any:
        """The model's output in float32 (or wider), differentiable in `params` and `x`; neither these nor `buffers` are
        changed.

        Args:
            params, buffers: by name.
            x: samples, [n, ...], or a `Batch`.
            y: labels; for a `forward` of the user's own, which may look at them.
            batch_norm: "train" normalises with the statistics of these samples.
            then: what to make of the output while parameters and buffers are in place.
        """
        own: dict[str, Tensor | None] = dict.fromkeys(self._structure.buffer_names)
        own |= _copies(buffers)
        device = next((tensor.device for _, tensor in tensors_in(x)), torch.device("cpu"))
        # In float32 an autocast around the call stays in force: crafting computes in half precision that way.
        half = autocast(device, self._precision) if self._precision != "float32" else nullcontext()
        # Fused attention kernels have no second derivative; the plain one has.
        derived = torch.is_grad_enabled() or forward_ad._current_level >= 0
        attention = sdpa_kernel(SDPBackend.MATH) if derived else nullcontext()
        with (
            half,
            attention,
            _inside_view(),
            self._structure.evaluating(batch_norm),
            self._unwritable(params, x) as (given, samples),
        ):
            return self._structure.call(self._objective, {**given, **own}, samples, y, then)

    @contextmanager
    def _unwritable(self, params: Mapping[str, Tensor], x: Nested) -> Iterator[tuple[dict[str, Tensor], Nested]]:
        """Parameters and samples for one forward pass: copies of those that a pass writes into, as `max_norm` does.

        The first pass has copies of all that are trained, and shows which they are.
        """
        known = self._written
        copied = {
            name: p.clone()
            for name, p in params.items()
            if (name in self.trainable if known is None else name in known)
        }
        others = [(name, p, p._version) for name, p in params.items() if known is None and name not in copied]
        samples = map_leaves(_cloned, x) if known is None or _INPUT in known else x
        yield {**params, **copied}, samples
        if known is None:
            before = dict(tensors_in(x))
            written = {name for name, p in copied.items() if p._version}
            if any(t is not before[path] and t._version for path, t in tensors_in(samples)):
                written.add(_INPUT)
            self._written = frozenset(written)
            touched = [name for name, p, version in others if p._version != version]
            if touched:
                raise ModelError(
                    f"got a forward pass that writes into frozen weights ({', '.join(touched[:3])}), wanted them left "
                    "alone, or requires_grad so that they are guarded as well"
                )

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
        if not found or not isinstance(found[-1], Tensor) or found[-1].dim() < 2:
            raise ModelError(f"layer: {layer or 'the last linear one'} gives no features, one row a sample")
        rows = to_float32(found[-1])
        # [n, d] as they are; [n, d, places...] of a convolution averaged over places
        return (rows if rows.dim() == 2 else rows.flatten(2).mean(2)), output

    def evaluate(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], function: Callable[[nn.Module], Any]
    ) -> Any:
        """What a function makes of the model: a module in eval mode, with copies of its tensors but for frozen weights,
        without gradients."""
        own: dict[str, Tensor | None] = dict.fromkeys(self._structure.buffer_names)
        with torch.no_grad():
            own |= _copies(buffers)
            trained = _copies({name: p for name, p in params.items() if name in self.trainable})
        copied = {name: trained[name] if name in trained else p.detach() for name, p in params.items()}
        frozen = [(name, p, p._version) for name, p in params.items() if name not in self.trainable]
        try:
            with torch.no_grad(), _inside_view(), self._structure.evaluating("eval"):
                found = self._structure.run(function, {**copied, **own})
        finally:
            self._structure.renew()
        touched = [name for name, p, version in frozen if p._version != version]
        if touched:
            raise ModelError(
                f"got an evaluation that writes into frozen weights ({', '.join(touched[:3])}), which are not copied; "
                "wanted them left alone: copy.deepcopy(model) may be written into"
            )
        return found

    @property
    def objective(self) -> Objective:
        """How the model is called, and its loss."""
        return self._objective

    @property
    def depends_on_batch(self) -> bool:
        """Whether an output depends on the other samples: of batch norm that keeps no running statistics."""
        return any(module.running_mean is None for module in self._structure.batch_norms)

    @property
    def criterion(self) -> AnyLoss:
        """The loss."""
        if self._objective.loss is None:
            raise LossError("got a model that computes its loss itself, wanted Learner(loss=...)")
        return self._objective.loss

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
        x: Nested,
        y: Nested = None,
        *,
        batch_norm: BatchNormMode = "eval",
    ) -> Tensor:
        """The loss of a batch, one number."""
        return self._objective.scalar(self.forward(params, buffers, x, y, batch_norm=batch_norm), x, y)

    def loss_gradient(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Nested, y: Nested = None
    ) -> Tensors:
        """The gradient of a batch's loss by the name of each trainable parameter, without a graph; also of models that
        compute activations again in the backward pass."""
        leaves = {name: p.detach().clone().requires_grad_(True) for name, p in params.items() if name in self.trainable}
        x, y = map_leaves(_detached, x), map_leaves(_detached, y)

        def descend(output: Nested) -> None:
            device = next((tensor.device.type for _, tensor in tensors_in(output)), "cpu")
            own = self._precision != "float32"  # ends with the forward pass
            with torch.autocast(device, enabled=False) if own else nullcontext():
                # A backward pass into leaves: `torch.autograd.grad` cannot go through reentrant checkpointing.
                self._objective.scalar(output, x, y).backward()  # type: ignore[no-untyped-call]

        with torch.enable_grad():
            self.forward({**params, **leaves}, buffers, x, y, then=descend)
        return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in leaves.items()}

    def sample_losses(
        self,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        x: Nested,
        y: Nested = None,
        *,
        batch_norm: BatchNormMode = "eval",
    ) -> Tensor:
        """The loss of each sample, [n]."""
        return self._objective.samples(
            self.forward(params, buffers, x, y, batch_norm=batch_norm),
            x,
            y,
            again=lambda some: self.forward(params, buffers, some, batch_norm=batch_norm),
        )

    def losses(
        self,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        output: Nested,
        x: Nested,
        y: Nested = None,
        *,
        readings: Readings | None = None,
        known: KnownLabels | None = None,
    ) -> Tensor:
        """The loss of each sample, [n], from the model's output; computed again only where that does not tell. With
        `readings` labels are looked at when these are read; `known` ones are not."""
        return self._objective.samples(
            output, x, y, again=lambda some: self.forward(params, buffers, some), readings=readings, known=known
        )


def _detached(_: str, leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _cloned(_: str, leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _copies(tensors: Mapping[str, Tensor]) -> Tensors:
    """Copies by name; with a graph to what they are copied from, where one is made."""
    with_graph = torch.is_grad_enabled()
    found = {name: tensor.clone() for name, tensor in tensors.items() if with_graph and tensor.requires_grad}
    others = {name: tensor for name, tensor in tensors.items() if name not in found}
    return found | dict(zip(others, cloned_tensors(list(others.values())), strict=True))
