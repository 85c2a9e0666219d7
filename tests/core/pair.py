"""Two processes of a gloo group on the CPU, for tests of training on several ranks."""

from __future__ import annotations

import hashlib
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing import get_context

SIZE = 2
_PATIENCE = 60
"""Seconds after which a case counts as hanging; the group's own timeout is far shorter."""


class Pair:
    """Two processes that stay, as each takes seconds to start. Every case gets a process group of its own."""

    def __init__(self) -> None:
        context = get_context("forkserver")  # which imports torch once for both
        context.set_forkserver_preload(["tests.core.rank_cases"])
        self._folder = Path(tempfile.mkdtemp())
        self._cases = 0
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(SIZE):
            own, other = context.Pipe()
            process = context.Process(target=_serve, args=(rank, other), daemon=True)
            process.start()
            self._pipes.append(own)
            self._processes.append(process)

    def run(self, case: Callable[..., Any], *arguments: Any, timeout: float = 15) -> list[Any]:
        """What the case returns in each process, or the text of what it raised there, as a `Failure`."""
        self._cases += 1
        store = str(self._folder / f"store-{self._cases}")
        for pipe in self._pipes:
            pipe.send((case, arguments, store, timeout))
        found = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(_PATIENCE), f"process {rank} hangs in {case.__name__}"
            found.append(pipe.recv())
        return found

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


class Failure(str):
    """The text of an exception, with its class in front."""


def _serve(rank: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        case, arguments, store, timeout = pipe.recv()
        distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=SIZE, timeout=timedelta(seconds=timeout)
        )
        try:
            found = case(rank, *arguments)
        except Exception as error:
            traceback.print_exc()
            found = Failure(f"{type(error).__name__}: {error}")
        pipe.send(found)
        distributed.destroy_process_group()


def digest(value: Any) -> str:
    """A number for all bits of the tensors in nested containers, and for the plain values beside them."""
    found = hashlib.sha256()
    _update(found, value)
    return found.hexdigest()


def _update(found: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        found.update(f"{value.dtype} {list(value.shape)}".encode())
        found.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key, item in value.items():
            found.update(str(key).encode())
            _update(found, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _update(found, item)
    else:
        found.update(repr(value).encode())
