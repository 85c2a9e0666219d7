"""Grids that wrap another grid."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from taster.errors import WorkerError


class ForwardingGrid(Grid):
    """A grid that forwards every call to another.

    Args:
        grid: the other, kept as `inner`.
    """

    def __init__(self, grid: Grid) -> None:
        self.inner = grid

    def set_run(self, run: object) -> None:
        """Forwards the run."""
        self.inner.set_run(run)  # type: ignore[arg-type]

    @property
    def run(self) -> object:  # type: ignore[override]
        """The run of the inner grid."""
        return self.inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message made by the inner grid."""
        return self.inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes of the inner grid."""
        return self.inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Forwards messages; returns their ids."""
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that the inner grid has received."""
        return self.inner.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Replies through the inner grid."""
        return self.inner.send_and_receive(messages, timeout=timeout)


class InterruptibleGrid(ForwardingGrid):
    """A grid that stops waiting for replies once the engine has ended.

    Args:
        grid: the inner grid.
        stop: set when the engine has ended.
        interval: seconds between two polls.

    Raises (when waiting):
        WorkerError: once the engine has ended.
    """

    def __init__(self, grid: Grid, stop: threading.Event, interval: float = 0.02) -> None:
        super().__init__(grid)
        self._stop = stop
        self._interval = interval

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Replies in order of arrival, until every message has one or the timeout has passed."""
        waiting = set(self.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        found: list[Message] = []
        while waiting and (end is None or time.monotonic() < end):
            if self._stop.is_set():
                raise WorkerError("Flower's simulation ended in the middle of a round")
            new = list(self.pull_messages(waiting))
            found += new
            waiting -= {message.metadata.reply_to_message_id for message in new}
            if waiting:
                self._stop.wait(self._interval)
        return found
