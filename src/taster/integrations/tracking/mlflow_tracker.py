"""A run in MLflow (extra `tracking`)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from taster.errors import TrackingError
from taster.integrations.tracking.tracker import finite_numbers, plain_name, require

if TYPE_CHECKING:
    from mlflow import MlflowClient

_T = TypeVar("_T")

_AT_ONCE = 100
"""Settings and numbers in a request; MLflow takes no more settings than these."""

_LONGEST = 500
"""Characters of a setting's value, the most that all of MLflow's stores take."""


class MLflowTracker:
    """One run in MLflow, begun at once. No global state of MLflow is touched: a run of the user's own stays active.

    Args:
        name: of the run.
        uri: of the tracking server or store; None is MLflow's own choice (`MLFLOW_TRACKING_URI`).
        experiment: that the run belongs to; made if there is none.
        tags: of the run, for finding it again.

    Raises:
        ExtraError: if MLflow is not installed.
        TrackingError: if the store cannot be used.
    """

    def __init__(
        self,
        name: str,
        *,
        uri: str | None = None,
        experiment: str = "taster",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._client = _client(uri)
        with _told(uri):
            self._run: str = self._client.create_run(
                _experiment(self._client, experiment), run_name=name, tags=dict(tags or {})
            ).info.run_id
        self._uri = uri

    def log_settings(self, settings: Mapping[str, Any], /) -> None:
        """Keeps settings by name, as text; long ones are cut.

        Raises:
            TrackingError: if the store cannot be written.
        """
        from mlflow.entities import Param

        with _told(self._uri):
            for some in _batches([Param(plain_name(k), str(v)[:_LONGEST]) for k, v in settings.items()]):
                self._client.log_batch(self._run, params=some)

    def log_numbers(self, numbers: Mapping[str, float], step: int, /) -> None:
        """Keeps finite numbers by name, as of a step.

        Raises:
            TrackingError: if the store cannot be written.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with _told(self._uri):
            for some in _batches([Metric(name, value, now, step) for name, value in finite_numbers(numbers).items()]):
                self._client.log_batch(self._run, metrics=some)

    def close(self) -> None:
        """Ends the run.

        Raises:
            TrackingError: if the store cannot be written.
        """
        with _told(self._uri):
            self._client.set_terminated(self._run)


def has_mlflow_run(tag: str, value: str, *, uri: str | None = None, experiment: str = "taster") -> bool:
    """Whether an experiment has a finished run whose tag has this value.

    Args:
        tag: its name, without quotes or backticks.
        value: without quotes.
        uri, experiment: as in `MLflowTracker`.

    Raises:
        ExtraError: if MLflow is not installed.
        TrackingError: if the store cannot be read.
    """
    client = _client(uri)
    with _told(uri):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return False
        query = f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'"
        return bool(client.search_runs([found.experiment_id], query, max_results=1))


def check_mlflow_store(uri: str | None = None) -> None:
    """Asks a server or store for its experiments, as little as one can ask.

    Args:
        uri: as in `MLflowTracker`.

    Raises:
        ExtraError: if MLflow is not installed.
        TrackingError: if there is no answer.
    """
    client = _client(uri)
    with _told(uri):
        client.search_experiments(max_results=1)


def _client(uri: str | None) -> MlflowClient:
    require("mlflow", "MLflow")
    from mlflow import MlflowClient

    with _told(uri):
        return MlflowClient(uri)


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


@contextmanager
def _told(uri: str | None) -> Iterator[None]:
    """Turns what MLflow raises into an error that says where and what to do."""
    try:
        yield
    except Exception as error:  # MLflow hands on what its stores raise: of SQLAlchemy, a driver, a missing module
        raise TrackingError(
            f"MLflow at {(uri or 'its default (MLFLOW_TRACKING_URI)')!s:.200}: {error}; wanted the address of a "
            "server or a store that this machine can use"
        ) from error


def _batches(values: list[_T]) -> Iterator[list[_T]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
