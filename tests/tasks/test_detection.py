"""Which task is told from shapes and losses, and where none can be."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from taster.errors import LabelError, ModelError, SettingError
from taster.tasks import Binary, MultiLabel, Tokens, named_task, seen_task

IDS = torch.arange(12).view(3, 4) % 5
YES = torch.tensor([0.0, 1.0, 1.0])
SOME = torch.tensor([0.5, 1.5, 2.0])


@pytest.mark.parametrize(
    ("output", "y", "loss", "name"),
    [
        (torch.randn(3, 5), torch.tensor([0, 4, 2]), functional.cross_entropy, "classification"),
        (torch.randn(3, 2), torch.tensor([0, 1, 1]), nn.CrossEntropyLoss(), "classification"),
        (torch.randn(3), YES, functional.binary_cross_entropy_with_logits, "binary"),
        (torch.randn(3, 1), YES[:, None], nn.BCEWithLogitsLoss(), "binary"),
        (torch.randn(3, 1), YES.long(), None, "binary"),
        (torch.randn(3, 4), (IDS > 2).float(), nn.BCEWithLogitsLoss(), "multilabel"),
        (torch.randn(3), YES, functional.mse_loss, "regression"),
        (torch.randn(3, 4), (IDS > 2).float(), partial(functional.huber_loss, delta=2.0), "regression"),
        (torch.randn(3), SOME, None, "regression"),
        (torch.randn(3, 1), SOME, nn.L1Loss(), "regression"),
        (torch.randn(3, 5, 4, 4), torch.ones(3, 4, 4, dtype=torch.long), functional.cross_entropy, "segmentation"),
        (torch.randn(3, 5, 4), IDS, functional.cross_entropy, "segmentation"),
        (torch.randn(3, 4, 5), IDS, None, "tokens"),
    ],
)
def test_shapes_and_losses_tell_the_task(output: Tensor, y: Tensor, loss: Any, name: str) -> None:
    assert seen_task(output, y, loss, "test").name == name


def cross_entropy(kind: str, output: Tensor, y: Tensor) -> Tensor:
    if kind == "segmentation":
        return functional.cross_entropy(output, y)
    if kind == "next":
        output, y = output[:, :-1], y[:, 1:]
    return functional.cross_entropy(output.flatten(0, 1), y.flatten())


@pytest.mark.parametrize("vocabulary", [4, 5])
@pytest.mark.parametrize("scale", [0.01, 1.0])  # untrained models have nearly the same loss either way
def test_the_loss_tells_which_labels_a_sequence_predicts(vocabulary: int, scale: float) -> None:
    output, y = scale * torch.randn(3, 4, vocabulary, generator=torch.Generator().manual_seed(0)), IDS % vocabulary
    for kind in ("same", "next", *(["segmentation"] if vocabulary == 4 else [])):
        found = seen_task(output, y, None, "test", mean_loss=cross_entropy(kind, output, y))
        if kind == "segmentation":
            assert found.name == "segmentation"
        else:
            assert isinstance(found, Tokens)
            assert found.shift == (kind == "next")
    with pytest.raises(ModelError, match="cannot be told which labels"):
        seen_task(output, y, None, "test", mean_loss=torch.tensor(20.0))


def test_zero_outputs_do_not_tell() -> None:
    output = torch.zeros(3, 4, 5)
    with pytest.raises(ModelError, match='wanted task="tokens"'):
        seen_task(output, IDS, None, "test", mean_loss=cross_entropy("same", output, IDS))


def test_answers_by_probability_are_seen_by_the_loss() -> None:
    for loss in (nn.BCELoss(), functional.binary_cross_entropy):
        one, several = seen_task(YES, YES, loss, "t"), seen_task(torch.rand(3, 4), (IDS > 2).float(), loss, "t")
        assert isinstance(one, Binary)
        assert isinstance(several, MultiLabel)
        assert one.probabilities
        assert several.probabilities
    plain = seen_task(torch.randn(3), YES, nn.BCEWithLogitsLoss(), "t")
    assert isinstance(plain, Binary)
    assert not plain.probabilities


def test_all_labels_count_and_not_the_first_alone() -> None:
    found = seen_task(torch.randn(3), YES, None, "test", every_label=torch.cat([YES, SOME]))
    assert found.name == "regression"


@pytest.mark.parametrize(
    ("output", "y", "loss", "error"),
    [
        (torch.randn(3, 2), torch.tensor([5, 7, 9]).view(3, 1), None, ModelError),
        (torch.randn(3, 5), torch.full((3, 5), 0.2), functional.cross_entropy, LabelError),
        (torch.randn(3), SOME, nn.PoissonNLLLoss(), ModelError),
        (torch.randn(3, 3, 4), torch.randn(3, 4), None, ModelError),
    ],
)
def test_what_looks_like_nothing_is_an_error(output: Tensor, y: Tensor, loss: Any, error: Any) -> None:
    with pytest.raises(error):
        seen_task(output, y, loss, "test")


def test_unknown_names_are_errors() -> None:
    with pytest.raises(SettingError, match="wanted one of classification, binary"):
        named_task("clasification", "test")
