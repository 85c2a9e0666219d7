"""What may be seen of a learner, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from taster.core.functional_model import BatchNormMode, FunctionalModel
from taster.core.snapshots import SnapshotBuffer
from taster.core.types import Tensors
from taster.errors import SnapshotError, StaleViewError


class View:
    """The learner as it is at one moment, for stages and attackers to look at and to compute with.

    Nothing done through a view can change the learner: parameters and buffers are handed out as copies, and every
    computation is functional. Copies are made when first asked for, so a view that nobody reads costs nothing.

    Attributes:
        step: how many steps the learner had taken.
        moment: the same object for all views between which the learner has not changed; others for all others.
    """

    def __init__(
        self,
        functional: Callable[[], FunctionalModel],
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        *,
        step: int,
        history: SnapshotBuffer | None = None,
        moment: object | None = None,
        current: Callable[[], bool] = lambda: True,
    ) -> None:
        self._functional = functional
        self._params = params
        self._buffers = buffers
        self._history = history
        self._current = current
        self._copied_params: Tensors | None = None
        self._copied_buffers: Tensors | None = None
        self.step = step
        self.moment: object = self if moment is None else moment

    @property
    def params(self) -> Tensors:
        """Copies of the parameters by name, without a graph; the same copies at every call on this view."""
        if self._copied_params is None:
            self._copied_params = _copies(self._live(self._params))
        return self._copied_params

    @property
    def trainable(self) -> Tensors:
        """Those of `params` that require a gradient in the learner's model."""
        names = self._functional().trainable
        return {name: value for name, value in self.params.items() if name in names}

    @property
    def buffers(self) -> Tensors:
        """Copies of the buffers by name; the same copies at every call on this view."""
        if self._copied_buffers is None:
            self._copied_buffers = _copies(self._live(self._buffers))
        return self._copied_buffers

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """The steps whose snapshots `at` can show, oldest first."""
        return () if self._history is None else self._history.steps

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the snapshots that are kept for good and that `at` can show."""
        return () if self._history is None else self._history.labels

    def at(self, step_or_label: int | str) -> View:
        """The learner as it was before an earlier step, or at a labelled snapshot.

        Raises:
            HistoryError: when the learner keeps no history, or not of that moment.
        """
        history = SnapshotBuffer(capacity=0) if self._history is None else self._history
        snapshot = history.at(step_or_label)
        # Snapshots may lie elsewhere, on the CPU say; the past is computed where the present is.
        params = {name: tensor.to(self._params[name].device) for name, tensor in snapshot.params.items()}
        buffers = {name: tensor.to(self._buffers[name].device) for name, tensor in snapshot.buffers.items()}
        return View(self._functional, params, buffers, step=snapshot.step, history=self._history)

    def steps_ago(self, step_or_label: int | str) -> View:
        """The learner at a labelled snapshot, or so many steps ago: at the nearest kept that is no younger, or else at
        the oldest there is; before the first was taken, as it is now.

        Raises:
            HistoryError: when the learner keeps no history, or has no such label.
        """
        if isinstance(step_or_label, str):
            return self.at(step_or_label)
        if not self.snapshot_steps and self._history is not None and self._history.capacity:
            return self
        if not self.snapshot_steps:
            raise SnapshotError(
                f"wanted a model of {step_or_label} steps ago, the learner keeps none; give it a History "
                "(in a recipe: history.capacity)"
            )
        wanted = self.step - step_or_label
        return self.at(max((step for step in self.snapshot_steps if step <= wanted), default=self.snapshot_steps[0]))

    def forward(
        self, x: Tensor, *, params: Mapping[str, Tensor] | None = None, batch_norm: BatchNormMode = "eval"
    ) -> Tensor:
        """The model's output for x, differentiable in x and in `params`; those not given are those of this moment."""
        return self._functional().forward(*self._state(params), x, batch_norm=batch_norm)

    def features(self, x: Tensor, layer: str | None = None) -> tuple[Tensor, Tensor]:
        """What a layer (by default: what goes into the last linear one) makes of x, [n, d], and the model's output.

        Raises:
            ModelError: when there is no such layer, or it gives no features.
        """
        return self._functional().features(*self._state(None), x, layer)

    def loss(
        self, x: Tensor, y: Tensor, *, params: Mapping[str, Tensor] | None = None, batch_norm: BatchNormMode = "eval"
    ) -> Tensor:
        """The loss of a batch, one number, differentiable as `forward` is."""
        return self._functional().loss(*self._state(params), x, y, batch_norm=batch_norm)

    @property
    def functional_model(self) -> FunctionalModel:
        """The model as a pure function, which computes with whatever parameters and buffers it is given."""
        return self._functional()

    def loss_gradient(self, x: Tensor, y: Tensor) -> Tensors:
        """The gradient of a batch's loss by the name of each trainable parameter, without a graph."""
        leaves = {name: value.requires_grad_(True) for name, value in _copies(self.trainable).items()}
        with torch.enable_grad():
            slopes = torch.autograd.grad(self.loss(x, y, params=leaves), list(leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if slope is None else slope
            for (name, leaf), slope in zip(leaves.items(), slopes, strict=True)
        }

    def sample_losses(
        self, x: Tensor, y: Tensor, *, params: Mapping[str, Tensor] | None = None, batch_norm: BatchNormMode = "eval"
    ) -> Tensor:
        """The loss of each sample, [n], differentiable as `forward` is."""
        return self._functional().sample_losses(*self._state(params), x, y, batch_norm=batch_norm)

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """The loss of each sample, [n], from what the model made of them."""
        return self._functional().losses(output, y)

    def outputs(self, x: Tensor, *, params: Mapping[str, Tensor] | None = None, chunk: int = 1000) -> Tensor:
        """`forward` of many samples, so many at a time and without a graph."""
        with torch.no_grad():
            return torch.cat([self.forward(part, params=params) for part in torch.split(x, chunk)])

    def accuracy(self, x: Tensor, y: Tensor, *, params: Mapping[str, Tensor] | None = None, chunk: int = 1000) -> float:
        """Share of samples classified rightly, in points (0 to 100)."""
        return 100.0 * int((self.outputs(x, params=params, chunk=chunk).argmax(1) == y).sum()) / len(x)

    def _state(self, params: Mapping[str, Tensor] | None) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        # A view whose copies are made stays readable after the learner has moved on.
        own = self._live(self._params) if self._copied_params is None else self._copied_params
        buffers = self._live(self._buffers) if self._copied_buffers is None else self._copied_buffers
        return {**{name: value.detach() for name, value in own.items()}, **(params or {})}, buffers

    def _live(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if not self._current():
            raise StaleViewError(
                f"this view shows the learner at step {self.step}, which has changed since; "
                "take a new one: learner.view()"
            )
        return tensors


def _copies(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
