"""The process's memory allocator."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's mallopt


def retain_freed_memory() -> bool:
    """Tells this process's allocator to keep freed memory for the next tensor instead of giving it back.

    On the CPU each large tensor otherwise starts on fresh pages that the system has to clear first, which costs a
    fifth and more of a training or crafting step (`benchmarks/derivatives.py`). It holds for the whole process and
    until it ends; the command line does it in its own processes, a library does not do it to its user's.

    Returns:
        whether it worked; False, and nothing done, where the allocator is not glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26))
    return all(mallopt(option, value) == 1 for option, value in wanted)
