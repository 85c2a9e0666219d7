"""Whether a model's tensors have been written to, or replaced by others."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping

from torch import Tensor

from taster.core.backup import version_of


class TensorVersions:
    """Which tensors a model has, and how often each has been written to."""

    def __init__(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        self._params, self._buffers = list(params.values()), list(buffers.values())
        self._trained = [p.requires_grad for p in self._params]
        self._param_versions = list(map(version_of, self._params))
        self._buffer_versions = list(map(version_of, self._buffers))

    def changes(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> tuple[bool, bool, bool]:
        """Whether parameters were written to, buffers were written to or replaced, and parameters were replaced,
        frozen or thawed."""
        replaced = not _identical(params.values(), self._params)
        written = list(map(version_of, self._params)) != self._param_versions
        moved = not _identical(buffers.values(), self._buffers) or (
            list(map(version_of, self._buffers)) != self._buffer_versions
        )
        return written, moved, replaced or self._trained != [p.requires_grad for p in self._params]


def _identical(tensors: Collection[Tensor], others: Collection[Tensor]) -> bool:
    return len(tensors) == len(others) and all(map(operator.is_, tensors, others))
