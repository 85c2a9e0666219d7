"""One random generator for each purpose, so that how often one is used cannot change what another draws."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(seed: int, purpose: str) -> int:
    """A seed of 63 bits that depends on both, and on nothing else."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """A fresh generator on the CPU for one purpose of one seed."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose))
