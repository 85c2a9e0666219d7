"""The checkout stays small enough to clone, to read and to carry to another machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MIB = 2**20


def test_the_checkout_is_small() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    sizes = {
        name: (ROOT / name).stat().st_size for name in listed.decode().split("\0") if name and (ROOT / name).exists()
    }
    assert len(sizes) > 100
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:5]
    assert sum(sizes.values()) < 12 * MIB, f"the largest: {', '.join(largest)}"
