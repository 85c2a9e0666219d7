"""Runs a function inside a Flower simulation."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from taster.errors import ExtraError, WorkerError
from taster.integrations.flower.grid_wrappers import InterruptibleGrid


def simulate(main: Callable[[Grid], None], app: ClientApp, *, nodes: int, workers: int = 1, gpus: float = 0.0) -> None:
    """Runs a function as the ServerApp of Flower's simulation on Ray, and raises what it raises.

    Args:
        main: called with the grid.
        app: run by the nodes.
        nodes: number of nodes.
        workers: processes that the nodes share.
        gpus: fraction of a GPU for each process.

    Raises:
        ExtraError: where Ray is not installed.
        WorkerError: when the engine ends before the function has.
        KeyboardInterrupt: on Ctrl-C, after the nodes' present tasks; on a second one, immediately.
    """
    require_ray()
    from flwr.simulation import run_simulation

    server, raised, stop, done = ServerApp(), list[BaseException](), threading.Event(), threading.Event()

    @server.main()
    def run(grid: Grid, context: Context) -> None:
        # Kept here, as Flower would log the error and wrap it.
        try:
            main(InterruptibleGrid(grid, stop))
        except BaseException as error:
            raised.append(error)
        finally:
            done.set()

    try:
        with _environment(), _interruptible(stop) as interrupted:
            run_simulation(
                server,
                app,
                nodes,
                backend_config={
                    # A cluster that runs on this machine belongs to somebody else.
                    "init_args": {
                        "address": "local",
                        "num_cpus": workers,
                        "logging_level": "error",
                        "log_to_driver": False,
                    },
                    "client_resources": {"num_cpus": 1, "num_gpus": gpus},
                },
            )
    except RuntimeError as error:
        if not raised:
            raise WorkerError(f"Flower's simulation ended: {_root(error)}") from error
    finally:
        stop.set()
    done.wait()
    if interrupted.is_set():
        raise KeyboardInterrupt
    if raised:
        raise raised[0]


@contextmanager
def _interruptible(stop: threading.Event) -> Iterator[threading.Event]:
    """Inside, Ctrl-C stops the function first and the engine after it: an engine that is torn down while a node works
    waits for that node forever. Yields an event that is set by Ctrl-C."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = signal.getsignal(signal.SIGINT)

    def heed(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        came.set()
        stop.set()

    signal.signal(signal.SIGINT, heed)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def require_ray() -> None:
    """Checks that Flower's simulation can run.

    Raises:
        ExtraError: where Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ExtraError(
            'Flower\'s simulation needs Ray, which is not installed; install the extra: pip install "taster[flower]"'
        )


@contextmanager
def _environment() -> Iterator[None]:
    """Inside, Ray sends no usage statistics and leaves GPUs alone, unless the environment says otherwise; `PYTHONPATH`
    is restored at the end."""
    path = os.environ.get("PYTHONPATH")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        yield
    finally:
        if path is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = path
