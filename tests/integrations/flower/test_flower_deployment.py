"""A SuperLink and SuperNodes as processes of this machine: the example as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason='needs the extra: pip install "taster[flower]"')

import torch
from torch.nn.functional import cross_entropy

import taster
from taster import Batch
from taster.federated import ClientReply

EXAMPLE = Path(__file__).parents[3] / "examples" / "flower"
NODES, ROUNDS = 3, 2


def in_one_process() -> dict[str, torch.Tensor]:
    """What the processes should come to: node 0 sends its update times −3."""
    from digits_federation.server import make_server
    from digits_federation.task import BATCH_SIZE, RATE, client_images, make_model, shares

    from taster.data import as_batch

    server = make_server(guard=True, num_byzantine=1)
    for _ in range(ROUNDS):
        replies = []
        for node, share in enumerate(shares(NODES)):
            model, batch = make_model(), as_batch(client_images().select(share))
            model.load_state_dict(server.learner.model.state_dict())
            start = torch.cat([p.detach().clone().reshape(-1) for p in model.parameters()])
            train(model, batch, BATCH_SIZE, RATE)
            update = (start - torch.cat([p.detach().reshape(-1) for p in model.parameters()])) / RATE
            replies.append(ClientReply(str(node), update * (-3 if node == 0 else 1), len(batch)))
        assert server.receive(replies, [str(node) for node in range(NODES)]).record.verdict.committed
    return dict(server.learner.model.state_dict())


def train(model: torch.nn.Module, batch: Batch, size: int, rate: float) -> None:
    optimizer = torch.optim.SGD(model.parameters(), rate)
    for x, y in zip(batch.x.split(size), batch.y.split(size), strict=True):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


def test_processes_come_to_what_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "result.safetensors"
    command = [sys.executable, str(EXAMPLE / "deploy.py"), "--nodes", str(NODES), "--rounds", str(ROUNDS)]
    options = ["--attack", "sign_flip", "--attackers", "0", "--num-byzantine", "1", "--out", str(out)]
    result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=420, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-4000:]
    found = taster.load_state(out)
    assert [r["verdict"] for r in found["rounds"]] == ["COMMIT"] * ROUNDS
    assert [r["faults"] for r in found["rounds"]] == [{}] * ROUNDS
    monkeypatch.syspath_prepend(str(EXAMPLE))
    for name, value in in_one_process().items():
        torch.testing.assert_close(found["model"][name], value, rtol=1e-4, atol=1e-5, msg=name)
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in left


def test_what_cannot_be_started_is_told() -> None:
    result = subprocess.run(
        [sys.executable, str(EXAMPLE / "deploy.py"), "--attackers", "7"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert "wanted numbers from 0 to 4" in result.stderr
