"""The address of a Ray cluster is looked at before anything is written, without Ray's own patience."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from tests.conftest import run_recipe

from taster.errors import WorkerError
from taster.experiments import read_recipe
from taster.experiments.running.cluster import Cluster


@pytest.mark.parametrize("address", [None, "auto"])
def test_no_address_is_looked_up(address: str | None) -> None:
    Cluster(address).check_address()


@pytest.mark.parametrize(
    "address",
    ["", "nonsense", "ray://host:1", "host:", ":6379", "host:port", "host:0", "host:99999999", "host:²", "a/b:1"],
)
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(WorkerError, match="wanted HOST:PORT of the cluster's head, or auto"):
        Cluster(address).check_address()


@pytest.mark.parametrize("host", ["127.0.0.1", "no\0host", "." * 80])
def test_where_nothing_answers_is_told(host: str) -> None:
    with socket.socket() as reserved:  # bound and not listening
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(WorkerError, match=r"where nothing answers .*ray start --head"):
            Cluster(f"{host}:{reserved.getsockname()[1]}").check_address()


def test_what_answers_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        Cluster(f"127.0.0.1:{server.getsockname()[1]}").check_address()


def test_a_run_without_its_cluster_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason='needs the extra: pip install "taster[ray]"')
    with pytest.raises(WorkerError, match="ray_address: got 'nonsense'"):
        run_recipe(read_recipe("quickstart"), tmp_path / "out", engine="ray", ray_address="nonsense")
    assert not (tmp_path / "out").exists()
