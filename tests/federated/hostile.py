"""Malformed replies of every kind: what a client could send that is of no use to a server."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy
import torch

from taster.federated import ClientReply

D = 63  # of the tiny net's parameters


class RudeError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even its text can be read")


class Raises:
    """An object all of whose methods raise."""

    def _raise(self, *args: Any, **kwargs: Any) -> Any:
        raise RudeError

    __float__ = __int__ = __index__ = __len__ = __iter__ = __getitem__ = __array__ = __bool__ = __eq__ = _raise
    __repr__ = __str__ = __hash__ = _raise  # type: ignore[assignment]

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RudeError

    def __getattr__(self, name: str) -> Any:
        raise RudeError


class RaisingTensor(torch.Tensor):
    """A tensor with which no operation works."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RudeError


def _with(draw: random.Random, value: float) -> torch.Tensor:
    update = torch.zeros(D)
    update[draw.randrange(D)] = value
    return update


UPDATES: dict[str, Callable[[random.Random], Any]] = {
    "none": lambda r: None,
    "text": lambda r: "0" * D,
    "bytes": lambda r: bytes(D),
    "number": lambda r: r.random(),
    "list": lambda r: [0.0] * D,
    "nested list": lambda r: [[[0.0]] * r.randrange(5)] * D,
    "dictionary": lambda r: dict.fromkeys(range(D), 0.0),
    "raising object": lambda r: Raises(),
    "raising tensor": lambda r: torch.zeros(D).as_subclass(RaisingTensor),
    "NaN": lambda r: _with(r, torch.nan),
    "infinity": lambda r: _with(r, r.choice([torch.inf, -torch.inf])),
    "huge": lambda r: _with(r, r.choice([1e17, -3e38])),
    "infinite in float32": lambda r: _with(r, 0.0).double() + 1e300,
    "long": lambda r: torch.zeros(D + r.randint(1, 5)),
    "short": lambda r: torch.zeros(r.randrange(D)),
    "matrix": lambda r: torch.zeros(1, D),
    "scalar": lambda r: torch.tensor(0.0),
    "empty": lambda r: torch.zeros(0),
    "expanded": lambda r: torch.zeros(1).expand(10**12),
    "complex": lambda r: torch.zeros(D, dtype=torch.complex64),
    "bool": lambda r: torch.zeros(D, dtype=torch.bool),
    "sparse": lambda r: torch.zeros(D).to_sparse(),
    "meta": lambda r: torch.zeros(D, device="meta"),
    "nested": lambda r: torch.nested.nested_tensor([torch.zeros(D)], layout=torch.jagged),
    "array of objects": lambda r: numpy.array([None] * D, dtype=object),
    "array of text": lambda r: numpy.array(["0"] * D),
    "array of records": lambda r: numpy.zeros(D, dtype=[("a", "f4")]),
    "array of NaN": lambda r: numpy.full(D, numpy.nan, dtype=numpy.float32),
}
WEIGHTS: dict[str, Callable[[random.Random], Any]] = {
    "text": lambda r: "1",
    "none": lambda r: None,
    "list": lambda r: [1.0],
    "NaN": lambda r: torch.nan,
    "infinity": lambda r: torch.inf,
    "zero": lambda r: 0,
    "negative": lambda r: -r.random(),
    "heavy": lambda r: 10 ** r.randint(2, 30),
    "too large for a float": lambda r: 10**400,
    "bool": lambda r: True,
    "complex": lambda r: 1j,
    "vector": lambda r: torch.ones(2),
    "raising object": lambda r: Raises(),
}
SIDES: dict[str, Callable[[random.Random, torch.Tensor], Any]] = {
    "missing": lambda r, own: None,
    "text": lambda r, own: "many",
    "raising object": lambda r, own: Raises(),
    "long": lambda r, own: torch.cat([own, own[:1]]),
    "short": lambda r, own: own[:-1],
    "empty": lambda r, own: own[:0],
    "NaN": lambda r, own: own * torch.nan,
    "infinity": lambda r, own: own + torch.inf,
    "huge": lambda r, own: own + 3e38,
    "negative variance": lambda r, own: torch.cat([own[:4], -own[4:8] - 1000, own[8:]]),
    "no numbers": lambda r, own: own.bool(),
    "sparse": lambda r, own: own.to_sparse(),
}


def spoiled(draw: random.Random, name: str, honest: ClientReply, side: str | None) -> list[Any]:
    """What a hostile client of this name sends, drawn at random, in the place of an honest reply."""
    kinds = ["update", "weight", "unasked", "silent", "twice", "stranger", "nameless", "fault"]
    kind = draw.choice([*kinds, "side", "side"] if side else kinds)
    parts = {"update": honest.update, "weight": honest.weight, "statistics": honest.statistics}
    parts["buffers"] = honest.buffers
    if kind == "update":
        parts["update"] = UPDATES[draw.choice(list(UPDATES))](draw)
    elif kind == "weight":
        parts["weight"] = WEIGHTS[draw.choice(list(WEIGHTS))](draw)
    elif kind == "side":
        assert side is not None
        parts[side] = SIDES[draw.choice(list(SIDES))](draw, parts[side])
    elif kind == "unasked":
        other = draw.choice([s for s in ("statistics", "buffers") if s != side])
        parts[other] = draw.choice([torch.zeros(draw.randrange(30)), "many", Raises(), 0])
    reply = ClientReply(name, **parts, fault="failed: out of memory" if kind == "fault" else "")
    if kind == "silent":
        return []
    if kind == "twice":
        return [reply] * draw.randint(2, 4)
    if kind == "stranger":
        return [ClientReply(f"stranger of {name}", **parts)]
    if kind == "nameless":
        return [draw.choice([None, "reply", ClientReply(draw.choice([None, 3, [name], Raises()]), **parts)])]  # type: ignore[arg-type]
    return [reply]
