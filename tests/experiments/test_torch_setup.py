"""What `[compute]` asks of torch."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from taster.experiments.recipes.schema import Compute
from taster.experiments.running.tasks import set_up_torch

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(before[0])
    torch.use_deterministic_algorithms(before[1])


def tf32() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def test_a_gpu_is_as_torch_has_it_or_gives_the_same_bits() -> None:
    before = tf32()
    set_up_torch(Compute(), GPU)
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    set_up_torch(Compute(deterministic=True), GPU)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()  # an operation without such a kernel is an error
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert tf32() == before


def test_a_cpu_has_its_threads_and_nothing_else_changed() -> None:
    set_up_torch(Compute(threads=1, deterministic=True), torch.device("cpu"))
    assert torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()
