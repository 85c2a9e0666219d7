"""Which machines a run asks for, told without importing Ray."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from taster.errors import WorkerError

_PATIENCE = 5.0
"""Seconds that a cluster's head may take to answer."""


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster a run asks for.

    Attributes:
        address: HOST:PORT of its head, or "auto" for the one that runs on this machine; None is that one or, if there
            is none, one started for the run.
        at_once: how many tasks may be under way; None is as many as there is room for.
    """

    address: str | None = None
    at_once: int | None = None

    def check_address(self) -> None:
        """Sees whether something answers at the address, which Ray itself tries for minutes.

        Raises:
            WorkerError: if nothing does, or it is no address.
        """
        if self.address in (None, "auto"):
            return
        told = f"ray_address: got {self.address!r}"
        host, _, port = self.address.rpartition(":")
        if "/" in self.address or not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 2**16:
            raise WorkerError(
                f"{told}, wanted HOST:PORT of the cluster's head, or auto for the cluster of this machine (start the "
                "run on a machine of the cluster: a run must be connected to it directly)"
            )
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
        except (OSError, ValueError) as error:  # a host name that cannot be encoded is a ValueError
            raise WorkerError(
                f"{told}, where nothing answers ({error}); start a cluster there with: ray start --head"
            ) from error
