"""What each task measures is what a plain loop over samples finds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from taster.errors import LabelError, ModelError
from taster.tasks import (
    TASKS,
    Binary,
    Classification,
    MultiLabel,
    Ranking,
    Regression,
    Segmentation,
    Task,
    Tokens,
    named_task,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(high: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


def places(logits: list[list[float]], labels: list[int]) -> tuple[float, float, float]:
    """Share of right places, mean probability and mean cross-entropy of those with labels of at least 0."""
    right, own, loss, count = 0.0, 0.0, 0.0, 0
    for row, label in zip(logits, labels, strict=True):
        if label < 0:
            continue
        p = math.exp(row[label]) / sum(math.exp(v) for v in row)
        right += row.index(max(row)) == label
        own, loss, count = own + p, loss - math.log(p), count + 1
    return right / count, own / count, loss / count


def check(task: Task, output: Tensor, y: Tensor, truth: list[tuple[float, ...]]) -> None:
    task.prepare(y, "test")
    task.check(output, y, "test")
    measured = task.measure(output, y)
    assert list(measured) == list(task.words)
    found = [*measured.values(), task.losses(output, y)]
    assert len(found) == len(truth[0])
    for i, values in enumerate(found):
        assert values.shape == (len(y),)
        assert values.tolist() == pytest.approx([row[i] for row in truth], abs=1e-5)


def test_classification() -> None:
    output, y = draw(7, 3), whole(3, 7)
    check(
        Classification(),
        output,
        y,
        [places([row.tolist()], [int(label)]) for row, label in zip(output, y, strict=True)],
    )


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("probabilities", [False, True])
def test_binary(column: bool, probabilities: bool) -> None:
    logits, y = draw(9), whole(2, 9)
    truth = []
    for v, label in zip(logits.tolist(), y.tolist(), strict=True):
        p = sigmoid(v) if label else sigmoid(-v)
        truth.append((float((v > 0) == bool(label)), p, -math.log(p)))
    output = logits.sigmoid() if probabilities else logits
    check(Binary(probabilities=probabilities), output[:, None] if column else output, y, truth)


def test_multilabel() -> None:
    output, y = draw(5, 4), whole(2, 5, 4)
    truth = []
    for row, labels in zip(output.tolist(), y.tolist(), strict=True):
        p = [sigmoid(v if label else -v) for v, label in zip(row, labels, strict=True)]
        truth.append((sum(q > 0.5 for q in p) / 4, sum(p) / 4, -sum(map(math.log, p)) / 4))
    check(MultiLabel(), output, y, truth)
    check(MultiLabel(probabilities=True), output.sigmoid(), y.float(), truth)


def test_segmentation() -> None:
    output, y = draw(4, 3, 2, 5), whole(3, 4, 2, 5)
    y[0, 0, :3], y[1, 1, 4] = -100, 255
    truth = []
    for one, labels in zip(output, y, strict=True):
        rows = one.flatten(1).t().tolist()
        truth.append(places(rows, [-1 if v == 255 else v for v in labels.flatten().tolist()]))
    check(Segmentation(), output, y, truth)


@pytest.mark.parametrize("shift", [False, True])
def test_tokens(shift: bool) -> None:
    output, y = draw(4, 6, 5), whole(5, 4, 6)
    y[0, 4:], y[2, 1] = -100, -100
    truth = []
    for one, labels in zip(output.tolist(), y.tolist(), strict=True):
        truth.append(places(one[:-1], labels[1:]) if shift else places(one, labels))
    check(Tokens(shift=shift), output, y, truth)


def test_regression() -> None:
    output, y = draw(6, 2), draw(6, 2, seed=5)
    scale = sum(float(y[:, j].var()) for j in range(2)) / 2
    errors = [sum((float(output[i, j]) - float(y[i, j])) ** 2 for j in range(2)) / 2 for i in range(6)]
    check(Regression(), output, y, [(1 - e / scale, e) for e in errors])
    one = draw(6)
    check(Regression(), one[:, None], y[:, 0], [
        (1 - float(d) ** 2 / float(y[:, 0].var()), float(d) ** 2) for d in one - y[:, 0]
    ])  # fmt: skip


def test_ranking() -> None:
    output, y = draw(5, 4), whole(3, 5, 4)
    y[:, 0], y[1, 3] = 2, -1
    truth = []
    for scores, gains in zip(output.tolist(), y.tolist(), strict=True):
        there = [i for i in range(4) if gains[i] >= 0]
        order = sorted(there, key=lambda i: -scores[i])
        best = sorted(there, key=lambda i: -gains[i])
        dcg = [sum((2 ** gains[i] - 1) / math.log2(k + 2) for k, i in enumerate(o)) for o in (order, best)]
        total = sum(math.exp(scores[i]) for i in there)
        p = {i: math.exp(scores[i]) / total for i in there}
        relevant = sum(gains[i] for i in there)
        loss = -sum(gains[i] / relevant * math.log(p[i]) for i in there)
        truth.append((dcg[0] / dcg[1], sum(p[i] * gains[i] for i in there) / max(gains), loss))
    check(Ranking(), output, y, truth)


@pytest.mark.parametrize(
    ("task", "output", "y", "error", "said"),
    [
        ("classification", draw(4, 3), torch.full((4,), 0.5), LabelError, "class indices of torch.int64"),
        ("classification", draw(4, 3), torch.tensor([0, 1, 2, 3]), LabelError, "0 to 2"),
        ("classification", draw(4), torch.tensor([0, 1, 0, 1]), ModelError, "one output per class"),
        ("binary", draw(4), torch.tensor([0.0, 1.0, 0.5, 1.0]), LabelError, "other than 0 and 1"),
        ("binary", draw(4, 2), torch.ones(4, 2), ModelError, 'or task="multilabel"'),
        ("binary", draw(4, 2), torch.ones(4), ModelError, "one logit for each label"),
        ("multilabel", draw(4, 2), torch.ones(4, 3), ModelError, "one logit for each label"),
        ("segmentation", draw(2, 3, 4), torch.full((2, 4), -1), LabelError, "labels are all ignored"),
        ("segmentation", draw(2, 3, 4), torch.ones(2, 5, dtype=torch.long), ModelError, "outputs"),
        ("tokens", draw(2, 3, 4), torch.full((2, 3), 4), LabelError, "0 to 3"),
        ("next_tokens", draw(2, 3, 4), torch.tensor([[1, -100, -100]] * 2), LabelError, "labels are all ignored"),
        ("regression", draw(4, 4), draw(4), ModelError, "broadcast"),
        ("regression", draw(4), torch.ones(4), LabelError, "all the same"),
        ("ranking", draw(4, 3), torch.zeros(4, 3), LabelError, "without a relevant candidate"),
        ("ranking", draw(4), torch.ones(4), ModelError, r"\[n, candidates\]"),
    ],
)
def test_what_does_not_fit_is_refused(task: str, output: Tensor, y: Tensor, error: Any, said: str) -> None:
    found = named_task(task, "test")
    assert found is not None

    def both() -> None:
        found.prepare(y, "test")
        found.check(output, y, "test")

    with pytest.raises(error, match=said):
        both()


def test_every_name_is_a_task() -> None:
    assert all(isinstance(make(), Task) for make in TASKS.values())
