"""Batches of any structure: counted, selected, moved and joined, and refused where they are none."""

from __future__ import annotations

import types
from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence
from torch.utils.data import DataLoader, TensorDataset

from taster import Batch
from taster.core.batch import check_tensors
from taster.core.joining import joined_batches
from taster.core.trusted_data import as_trusted_data
from taster.errors import BatchError


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclass
class Graph:
    nodes: Tensor
    name: str = "g"


def packed() -> PackedSequence:
    return pack_sequence([torch.full((n,), float(n)) for n in (2, 4, 1, 3)], enforce_sorted=False)


CONTAINERS: dict[str, Any] = {
    "tensor": torch.arange(4.0),
    "dict": {"a": torch.arange(4.0), "b": {"c": torch.arange(8.0).view(4, 2)}},
    "ordered": OrderedDict(a=torch.arange(4.0)),
    "user dict": UserDict(a=torch.arange(4.0)),
    "read-only": types.MappingProxyType({"a": torch.arange(4.0)}),
    "list": [torch.arange(4.0), torch.arange(4)],
    "tuple": (torch.arange(4.0), (torch.arange(4),)),
    "named tuple": Pair(torch.arange(4.0), torch.arange(4)),
    "dataclass": Graph(torch.arange(4.0)),
    "strings": {"ids": torch.arange(4.0), "text": ["a", "b", "c", "d"], "lang": "en", "scale": torch.tensor(2.0)},
    "packed": packed(),
}


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("keep", [torch.tensor([True, False, True, False]), torch.tensor([0, 2]), slice(0, 4, 2)])
def test_samples_are_selected_in_any_container(name: str, keep: Tensor | slice) -> None:
    batch = Batch(CONTAINERS[name], torch.tensor([10, 11, 12, 13]))
    part = batch.select(keep)
    assert len(batch) == 4
    assert len(part) == 2
    assert part.y.tolist() == [10, 12]
    if name != "read-only":
        assert type(part.x) is type(batch.x)
    if name == "packed":
        assert [row.tolist() for row in unpack_sequence(part.x)] == [[2.0, 2.0], [1.0]]
        return
    before, after = dict(batch.tensors()), dict(part.tensors())
    assert before.keys() == after.keys()
    for path, tensor in before.items():
        assert torch.equal(after[path], tensor[[0, 2]] if tensor.dim() else tensor)
    if name == "strings":
        assert part.x["text"] == ["a", "c"]
        assert part.x["lang"] == "en"
    if name == "dataclass":
        assert part.x.name == "g"


def test_samples_may_lie_along_any_dimension() -> None:
    x = {
        "series": torch.arange(12.0).view(3, 4),
        "state": (torch.zeros(2, 4, 5), torch.ones(2, 4, 5)),
        "table": torch.eye(7),
    }
    batch = Batch(x, torch.arange(4), batch_dim={"series": 1, "state": 1, "table": None})
    part = batch.select(torch.tensor([False, True, True, False]))
    assert len(batch) == 4
    assert part.x["series"].tolist() == [[1.0, 2.0], [5.0, 6.0], [9.0, 10.0]]
    assert [t.shape for t in part.x["state"]] == [(2, 2, 5), (2, 2, 5)]
    assert part.x["table"].shape == (7, 7)
    assert len(Batch(torch.zeros(3, 4), torch.zeros(2, 4), batch_dim=-1)) == 4


def test_lists_of_samples_of_any_size() -> None:
    images = [torch.zeros(3, n, n) for n in (4, 5, 6)]
    boxes = [{"boxes": torch.zeros(n, 4), "labels": torch.zeros(n)} for n in (1, 0, 3)]
    for batch in (
        Batch(images, boxes, batch_dim="list"),
        Batch(tuple(images), boxes, batch_dim={"x": "list", "y": "list"}),
    ):
        part = batch.select(torch.tensor([2, 0]))
        assert len(batch) == 3
        assert [len(entry["boxes"]) for entry in part.y] == [3, 1]
        assert type(part.x) is type(batch.x)


def test_a_batch_unpacks_as_a_loaders_pair() -> None:
    x, y = Batch(torch.zeros(2), torch.ones(2))
    batch = Batch(torch.zeros(2), torch.ones(2))
    assert (x.sum(), y.sum(), batch[0].sum(), batch[1].sum()) == (0, 2, 0, 2)


def test_a_copy_elsewhere_has_the_same_structure() -> None:
    moved = Batch(CONTAINERS["strings"], torch.arange(4)).to("meta")
    assert {tensor.device.type for _, tensor in moved.tensors()} == {"meta"}
    assert moved.x["text"] == ["a", "b", "c", "d"]
    with pytest.raises(NotImplementedError):  # nothing can be read there, so it was really moved
        moved.x["ids"].tolist()
    assert Batch(packed()).to("cpu").x.data.tolist() == packed().data.tolist()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Batch({"a": torch.zeros(3), "b": torch.zeros(4)}), "got 3 samples in x.a and 4 in x.b"),
        (lambda: Batch(torch.zeros(3), torch.zeros(4)), "got 3 samples in x and 4 in y"),
        (lambda: Batch({}), "wanted a torch.Tensor"),
        (lambda: Batch({"text": "hello"}), "without a tensor of samples"),
        (lambda: Batch("hello"), "got str"),
        (lambda: Batch(torch.tensor(1.0)), "got a single number"),
        (lambda: Batch(torch.zeros(0, 3)), "an empty batch"),
        (lambda: Batch({"a": torch.zeros(0, 3)}), "an empty batch"),
        (lambda: Batch(torch.zeros(3, 2), batch_dim=2), "has no dimension 2"),
        (lambda: Batch({"a": torch.zeros(3)}, batch_dim={"aa": 1}), "batch_dim: got 'aa', wanted names.*a"),
        (lambda: Batch(torch.zeros(3), torch.zeros(3), batch_dim="list"), 'wanted a list, as batch_dim says "list"'),
        (lambda: Batch([torch.zeros(2, 3), torch.zeros(5, 3)]), '"list" for a list with one entry a sample'),
        (lambda: Batch(torch.eye(3).to_sparse()), "to_dense"),
        (lambda: Batch({"a": torch.zeros(3)}).select(slice(0, 0)), "an empty batch"),
        (lambda: Batch(packed()).select(torch.zeros(4, dtype=torch.bool)), "an empty selection"),
        (lambda: check_tensors(Batch({"a": torch.zeros(3)}), "stage"), "stage: got samples that are dict"),
    ],
)
def test_what_is_no_batch_is_refused(make: Any, said: str) -> None:
    with pytest.raises(BatchError, match=said):
        make()


@pytest.mark.parametrize("name", CONTAINERS)
def test_parts_of_a_batch_joined_are_the_batch(name: str) -> None:
    batch = Batch(CONTAINERS[name], torch.arange(4))
    again = joined_batches([batch.select(slice(0, 1)), batch.select(slice(1, 4))], "stage")
    assert len(again) == 4
    if name == "packed":
        assert [row.tolist() for row in unpack_sequence(again.x)] == [row.tolist() for row in unpack_sequence(batch.x)]
        return
    before, after = dict(batch.tensors()), dict(again.tensors())
    assert before.keys() == after.keys()
    assert all(torch.equal(after[path], tensor) for path, tensor in before.items())
    if name == "strings":
        assert again.x["text"] == ["a", "b", "c", "d"]


def test_parts_along_other_dimensions_are_joined_along_these() -> None:
    batch = Batch({"s": torch.arange(12.0).view(3, 4)}, torch.arange(4), batch_dim={"s": 1})
    again = joined_batches([batch.select(slice(0, 3)), batch.select(slice(3, 4))], "stage")
    assert torch.equal(again.x["s"], batch.x["s"])
    listed = Batch([torch.zeros(2), torch.zeros(3)], [torch.ones(1), torch.ones(4)], batch_dim="list")
    assert len(joined_batches([listed, listed], "stage")) == 4


def test_padding_of_a_loader_is_made_one_length() -> None:
    def collate(rows: list[tuple[Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
        lengths = [int(row[0]) for row in rows]
        longest = max(lengths)
        mask = torch.tensor([[1] * n + [0] * (longest - n) for n in lengths])
        return {"input_ids": 5 * mask, "attention_mask": mask, "labels": mask}, mask + 6

    loader = DataLoader(TensorDataset(torch.tensor([2, 3, 5, 1])), batch_size=2, collate_fn=collate)  # type: ignore[arg-type]
    probe = as_trusted_data(loader, "stage")
    assert probe.x["attention_mask"].sum(1).tolist() == [2, 3, 5, 1]
    assert probe.x["input_ids"].shape == probe.y.shape == (4, 5)
    assert probe.x["labels"][0].tolist() == [1, 1, 0, -100, -100]
    assert probe.y[0].tolist() == [7, 7, 6, -100, -100]


def test_parts_that_do_not_belong_together_are_refused() -> None:
    one = Batch({"a": torch.zeros(2, 3)})
    for other, said in (
        (Batch({"a": torch.zeros(2, 4)}), "different shapes"),
        (Batch({"b": torch.zeros(2, 3)}), "different structure"),
        (Batch([torch.zeros(2, 3)]), "different structure"),
    ):
        with pytest.raises(BatchError, match=said):
            joined_batches([one, other], "stage")
    with pytest.raises(BatchError, match="which all of their samples share"):
        joined_batches([Batch({"a": torch.zeros(2), "s": s}) for s in (1.0, 2.0)], "stage")


def test_trusted_data_come_from_data_sets_and_loaders() -> None:
    data = TensorDataset(torch.arange(6.0), torch.arange(6))
    for source in (data, DataLoader(data, batch_size=4), Batch(torch.arange(6.0), torch.arange(6))):
        assert as_trusted_data(source, "stage").y.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(BatchError, match="without samples"):
        as_trusted_data(DataLoader(TensorDataset(torch.zeros(0))), "stage")
    with pytest.raises(BatchError, match="got a list as trusted data"):
        as_trusted_data([1, 2], "stage")


def test_masks_may_hold_minus_infinity_and_samples_may_not() -> None:
    bias = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    assert len(as_trusted_data(Batch({"a": torch.zeros(2, 3), "bias": bias}), "stage")) == 2
    for x, dim in (
        ({"a": torch.zeros(2, 3), "bias": bias * float("nan")}, 0),
        ({"a": torch.full((3, 2), torch.inf)}, 1),
        (pack_sequence([torch.tensor([1.0, float("nan")]), torch.ones(1)]), 0),
    ):
        with pytest.raises(BatchError, match="NaN or infinity"):
            as_trusted_data(Batch(x, batch_dim=dim), "stage")  # type: ignore[arg-type]
