"""Settings of the process's memory allocator."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's mallopt


def retain_freed_memory() -> bool:
    """Makes this process's allocator retain freed memory for later tensors instead of returning it to the system.

    On the CPU each large tensor otherwise starts on fresh pages that the system has to clear first, which costs a
    fifth or more of a training or crafting step (`benchmarks/derivatives.py`). The setting holds for the whole process
    until it ends, so that the command line applies it to its own processes only.

    Returns:
        whether the setting was applied; False if the allocator is not glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26))
    return all(mallopt(option, value) == 1 for option, value in wanted)
