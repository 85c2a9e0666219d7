"""A random generator for each purpose, so that the draws for one purpose do not affect those for another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derived_seed(seed: int, purpose: str) -> int:
    """A seed of 63 bits, derived from a seed and a purpose."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """A new CPU generator for a purpose."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's own random numbers, of the CPU and of a device, start from a seed; afterwards they go on as if
    nothing had been."""
    with kept_random_numbers(device):
        torch.manual_seed(seed)
        yield


@contextmanager
def drawing_from(source: torch.Generator, device: torch.device) -> Iterator[None]:
    """`seeded` by a seed that is drawn from a generator."""
    with seeded(int(torch.randint(2**31, (1,), generator=source, device=source.device)), device):
        yield


@contextmanager
def kept_random_numbers(device: torch.device | None = None) -> Iterator[None]:
    """Afterwards torch's own random numbers, of the CPU and of a device, go on as if nothing had been.

    Args:
        device: None for all GPUs, if any is in use.
    """
    devices: list[torch.device] = []
    if device is not None:
        devices = [device] if device.type == "cuda" else []
    elif torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    with torch.random.fork_rng(devices):
        yield
