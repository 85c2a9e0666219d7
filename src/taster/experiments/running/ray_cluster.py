"""The Ray cluster of a run: connected to or started, and seen to fit."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import taster
from taster.errors import WorkerError
from taster.experiments.code_digest import code_digest
from taster.experiments.environment import available_cores

_logger = logging.getLogger(__name__)


@contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Connects this process to a cluster as long as the context lasts; one that it is connected to already is used.

    Args:
        address: HOST:PORT of the head, "auto" for the cluster that runs on this machine, or None for that one or, if
            there is none, one that is started here and ends with the context.

    Raises:
        WorkerError: if there is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # tasks without a GPU leave GPUs alone anyway
    quiet: Any = {"logging_level": "error", "log_to_driver": False}
    try:
        ray.init(address=address or "auto", **quiet)
    except Exception as error:  # Ray has no class of its own for what it cannot reach
        if address is not None:
            raise WorkerError(
                f"ray_address: got {address!r}, where no Ray cluster answers ({error}); "
                "start one with: ray start --head"
            ) from error
        cores = available_cores()
        ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        _logger.warning("no Ray cluster is running here: started one on this machine alone, with %d cores", cores)
    try:
        yield
    finally:
        ray.shutdown()


def versions() -> dict[str, str]:
    """What must be the same on all machines of a run, by name."""
    return {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": importlib.metadata.version("numpy"),
        "taster": taster.__version__,
        "taster's code": code_digest()[:12],
    }


def check_versions(wanted: dict[str, str]) -> None:
    """Compares this machine with the one that the run was started on.

    Args:
        wanted: `versions` there.

    Raises:
        WorkerError: naming everything that differs.
    """
    got = versions()
    differing = [f"{name} {got.get(name)} (wanted {value})" for name, value in wanted.items() if got.get(name) != value]
    if differing:
        raise WorkerError(
            f"machine {platform.node()}: got {', '.join(differing)}, wanted what the run was started with, as other "
            "versions come to other results; install the same on every machine"
        )


def check_nodes(cpus: int, gpus: int) -> None:
    """Checks that the cluster has room for a task, and that all nodes have what this machine has.

    Args:
        cpus, gpus: of a task.

    Raises:
        WorkerError: if no node is large enough, or the versions of one differ.
    """
    nodes: list[Any] = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    with_room = [node for node in nodes if _has(node, "CPU", cpus) and _has(node, "GPU", gpus)]
    if not with_room:
        raise WorkerError(
            f"got a Ray cluster of {len(nodes)} nodes, none of which has {cpus} CPUs"
            f"{f' and {gpus} GPU' if gpus else ''}, wanted one that has; set fewer threads (--set compute.threads=N)"
        )
    remote: Any = ray.remote(_complaint)
    wanted = versions()
    asked = {
        remote.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(wanted): node
        for node in with_room
    }
    for answer, node in asked.items():
        try:
            complaint = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise WorkerError(
                f"node {node['NodeManagerAddress']}: taster cannot be imported there ({error.cause}), wanted taster "
                f"{wanted['taster']} installed on every machine"
            ) from error
        except ray.exceptions.RayError:
            continue  # lost since: its tasks go to others
        if complaint is not None:
            raise WorkerError(f"node {node['NodeManagerAddress']}: {complaint}")


def _has(node: Any, resource: str, amount: int) -> bool:
    return bool(node["Resources"].get(resource, 0.0) >= amount)


def _complaint(wanted: dict[str, str]) -> str | None:
    try:
        check_versions(wanted)
    except WorkerError as error:
        return str(error)
    return None
