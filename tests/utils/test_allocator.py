"""Freed memory is retained and used again."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGES = """
import resource, torch
from taster.utils.allocator import retain_freed_memory
{first}
for turn in range(15):
    if turn == 12:  # the heap has grown to what alignment and the small objects in between need
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def fresh_pages(first: str) -> int:
    done = subprocess.run([sys.executable, "-c", PAGES.format(first=first)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator alone")
def test_freed_memory_is_used_again() -> None:
    # 64 MiB at a time: returned, it comes as fresh pages each time (fewer where pages are large).
    assert fresh_pages("assert retain_freed_memory()") < fresh_pages("") / 4
