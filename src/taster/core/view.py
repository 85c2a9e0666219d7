"""Read-only views of a learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from taster.core.batch import Batch
from taster.core.foreach import cloned_tensors
from taster.core.functional_model import FunctionalModel
from taster.core.host import Readings
from taster.core.losses import KnownLabels
from taster.core.nested import Nested, main_output
from taster.core.ranks import Ranks
from taster.core.snapshots import SnapshotBuffer
from taster.core.types import BatchNormMode, Tensors
from taster.errors import ModelError, SnapshotError, StaleViewError


class View:
    """A read-only view of a learner at one state, for stages and attackers.

    Nothing done through a view changes the learner: parameters and buffers are returned as copies, and every
    computation is functional. Copies are made on first use, so that an unused view costs nothing.

    Attributes:
        step: how many steps the learner had taken.
        state_version: the same object for all views between which the learner has not changed.
        input_range: the smallest and largest value a sample may hold; None for any.
        ranks: the processes that train the model together.
    """

    def __init__(
        self,
        functional_model: Callable[[], FunctionalModel],
        tensors: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Tensor]]],
        *,
        step: int,
        snapshots: SnapshotBuffer | None = None,
        state_version: object | None = None,
        current: Callable[[], bool] = lambda: True,
        input_range: tuple[float, float] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self._functional_model = functional_model
        self._tensors = tensors
        self._read: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None
        self._snapshots = snapshots
        self._current = current
        self._copied_params: Tensors | None = None
        self._copied_buffers: Tensors | None = None
        self.step = step
        self.input_range = input_range
        self.ranks: Ranks = Ranks() if ranks is None else ranks
        self.state_version: object = self if state_version is None else state_version
        self._cached_model: FunctionalModel | None = None

    @property
    def _params(self) -> Mapping[str, Tensor]:
        return self._named_tensors()[0]

    @property
    def _buffers(self) -> Mapping[str, Tensor]:
        return self._named_tensors()[1]

    def _named_tensors(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        if self._read is None:
            self._read = self._tensors()
        return self._read

    @property
    def params(self) -> Tensors:
        """Copies of the parameters by name, without a graph; the same copies at every call on this view."""
        if self._copied_params is None:
            self._copied_params = _copies(self._live(self._params))
        return self._copied_params

    @property
    def trainable(self) -> Tensors:
        """Those of `params` that require a gradient in the learner's model."""
        names = self.functional_model.trainable
        return {name: value for name, value in self.params.items() if name in names}

    @property
    def buffers(self) -> Tensors:
        """Copies of the buffers by name; the same copies at every call on this view."""
        if self._copied_buffers is None:
            self._copied_buffers = _copies(self._live(self._buffers))
        return self._copied_buffers

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """The steps of the snapshots in the ring, oldest first."""
        return () if self._snapshots is None else self._snapshots.steps

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the labelled snapshots."""
        return () if self._snapshots is None else self._snapshots.labels

    def at(self, step_or_label: int | str) -> View:
        """A view of the learner before an earlier step, or of a labelled snapshot.

        Raises:
            SnapshotError: when the learner keeps no such snapshot.
        """
        snapshots = SnapshotBuffer(capacity=0) if self._snapshots is None else self._snapshots
        snapshot = snapshots.at(step_or_label)
        # Snapshots may lie elsewhere, on the CPU say; the past is computed where the present is.
        present = {**self._params, **self._buffers}
        params, buffers = (
            {name: tensor.to(present[name].device) if name in present else tensor for name, tensor in saved.items()}
            for saved in (snapshot.params, snapshot.buffers)
        )
        return View(
            lambda: self.functional_model,
            # Of frozen weights a snapshot holds none.
            lambda: ({**self._params, **params}, buffers),
            step=snapshot.step,
            snapshots=self._snapshots,
            input_range=self.input_range,
            ranks=self.ranks,
        )

    def steps_ago(self, step_or_label: int | str) -> View:
        """A view of a labelled snapshot, or of the newest snapshot at least `step_or_label` steps old, else of the
        oldest; of the present state before the first snapshot is taken.

        Raises:
            SnapshotError: when the learner keeps no snapshots, or has no such label.
        """
        if isinstance(step_or_label, str):
            return self.at(step_or_label)
        if not self.snapshot_steps and self._snapshots is not None and self._snapshots.capacity:
            return self
        if not self.snapshot_steps:
            raise SnapshotError(
                f"wanted a model of {step_or_label} steps ago, the learner keeps none; give it a SnapshotBuffer "
                "(in a recipe: history.capacity)"
            )
        wanted = self.step - step_or_label
        return self.at(max((step for step in self.snapshot_steps if step <= wanted), default=self.snapshot_steps[0]))

    def forward(
        self,
        x: Nested,
        y: Nested = None,
        *,
        params: Mapping[str, Tensor] | None = None,
        batch_norm: BatchNormMode = "eval",
    ) -> Any:
        """The model's output for x, differentiable in x and in `params`; those not given are those of this moment.

        Args:
            x: samples, or a `Batch`.
            y: labels, for a `forward` of the user's own that looks at them.
            params: parameters by name in place of the model's.
            batch_norm: "train" normalises with the statistics of these samples.
        """
        return self.functional_model.forward(*self._state(params), x, y, batch_norm=batch_norm)

    def features(self, x: Nested, layer: str | None = None) -> tuple[Tensor, Any]:
        """Features of x at a layer, [n, d], by default the input of the last linear layer, and the model's output.

        Raises:
            ModelError: when there is no such layer, or its output has no features.
        """
        return self.functional_model.features(*self._state(None), x, layer)

    def loss(
        self,
        x: Nested,
        y: Nested = None,
        *,
        params: Mapping[str, Tensor] | None = None,
        batch_norm: BatchNormMode = "eval",
    ) -> Tensor:
        """The loss of a batch, one number, differentiable as `forward` is."""
        return self.functional_model.loss(*self._state(params), x, y, batch_norm=batch_norm)

    @property
    def functional_model(self) -> FunctionalModel:
        """The model as a pure function, which computes with whatever parameters and buffers it is given; with the
        structure and attributes that the model had when this view was first asked for it."""
        if self._cached_model is None:
            self._cached_model = self._functional_model()
        return self._cached_model

    def loss_gradient(self, x: Nested, y: Nested = None) -> Tensors:
        """The gradient of a batch's loss by the name of each trainable parameter, without a graph."""
        return self.functional_model.loss_gradient(*self._state(None), x, y)

    def sample_losses(
        self,
        x: Nested,
        y: Nested = None,
        *,
        params: Mapping[str, Tensor] | None = None,
        batch_norm: BatchNormMode = "eval",
    ) -> Tensor:
        """The loss of each sample, [n], differentiable as `forward` is."""
        return self.functional_model.sample_losses(*self._state(params), x, y, batch_norm=batch_norm)

    def losses(
        self,
        output: Nested,
        x: Nested,
        y: Nested = None,
        *,
        readings: Readings | None = None,
        known: KnownLabels | None = None,
    ) -> Tensor:
        """The loss of each sample, [n], from the model's output.

        Nothing waits with `readings`: labels that the output has no place for are refused when these are read. Nor with
        what is `known` of labels that were checked before (`taster.core.losses.known_labels`).
        """
        return self.functional_model.losses(*self._state(None), output, x, y, readings=readings, known=known)

    def outputs(self, x: Nested, *, params: Mapping[str, Tensor] | None = None, chunk: int = 1000) -> Tensor:
        """The predictions for many samples, or for a `Batch`, in chunks and without a graph: of an output with several
        tensors the one that `taster.core.nested.main_output` finds."""
        batch = x if isinstance(x, Batch) else Batch(x)
        with torch.no_grad():
            if len(batch) <= chunk:
                return predictions(self.forward(batch, params=params))
            parts = (batch.select(slice(i, i + chunk)) for i in range(0, len(batch), chunk))
            return torch.cat([predictions(self.forward(part, params=params)) for part in parts])

    def evaluate(self, function: Callable[[nn.Module], Any]) -> Any:
        """What a function makes of the model, which it gets as a copy in eval mode, without gradients."""
        return self.functional_model.evaluate(*self._state(None), function)

    def accuracy(self, x: Tensor, y: Tensor, *, params: Mapping[str, Tensor] | None = None, chunk: int = 1000) -> float:
        """Accuracy in percentage points (0 to 100)."""
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


def predictions(output: Nested) -> Tensor:
    """The tensor of predictions in an output.

    Raises:
        ModelError: when it cannot be told which one that is.
    """
    found = main_output(output)
    if found is None:
        raise ModelError(
            f"got a model that returned {type(output).__name__} with several tensors, wanted one of them called "
            "logits; "
            "or Learner(forward=lambda model, batch: ...) that returns the one to judge"
        )
    return found


def _copies(tensors: Mapping[str, Tensor]) -> Tensors:
    return dict(zip(tensors, cloned_tensors(list(tensors.values())), strict=True))
