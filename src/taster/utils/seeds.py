"""A random generator for each purpose, so that the draws for one purpose do not affect those for another."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(seed: int, purpose: str) -> int:
    """A seed of 63 bits, derived from a seed and a purpose."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """A new CPU generator for a purpose."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose))
