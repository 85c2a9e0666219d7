"""The guide's lines on Flower, run as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason='needs the extra: pip install "taster[flower]"')

import torch
from flwr.clientapp import ClientApp
from tests.conftest import TinyNet
from tests.integrations.flower.nodes import Nodes, honest
from torch.nn.functional import cross_entropy

from taster import Guard, Learner
from taster.attacks import label_flip, sign_flip
from taster.federated import Server, trimmed_mean
from taster.integrations.flower import GuardedStrategy, colluding, malicious

GUIDE = Path(__file__).parents[3] / "docs" / "federated.md"


def test_the_guides_server_and_clients_run() -> None:
    _, server, clients = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names: dict[str, Any] = {
        **{"torch": torch, "Server": Server, "Learner": Learner, "trimmed_mean": trimmed_mean},
        **{"GuardedStrategy": GuardedStrategy, "model": TinyNet(), "loss": cross_entropy, "guard": Guard()},
        **{"grid": Nodes({i: honest() for i in range(5)}), "ClientApp": ClientApp, "Net": TinyNet},
        **{"malicious": malicious, "colluding": colluding, "sign_flip": sign_flip, "label_flip": label_flip},
    }
    exec(server, names)
    assert [outcome.record.verdict.committed for outcome in names["strategy"].rounds] == [True] * 10
    exec(clients, names)
    assert all(isinstance(names[name], ClientApp) for name in ("alone", "samples", "together"))
