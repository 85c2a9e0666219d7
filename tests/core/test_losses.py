"""Losses of any kind: labels are checked only where they are classes, and samples are on the scale of the batch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from taster import Guard, Learner, ScreenedBatch, View
from taster.core.losses import sample_losses, scalar_loss
from taster.errors import LabelError, LossError

X = torch.rand(16, 8, generator=torch.manual_seed(0))
Y = torch.randint(0, 2, (16,))
PADDED, VOID = Y.clone(), Y.clone()
PADDED[0], VOID[0] = -100, 255

OWN_LABELS = {
    "the default ignore_index": (2, F.cross_entropy, PADDED),
    "the default of the module": (2, nn.CrossEntropyLoss(), PADDED),
    "a partial with ignore_index": (2, partial(F.cross_entropy, ignore_index=255), VOID),
    "one logit": (1, lambda o, t: F.binary_cross_entropy_with_logits(o.squeeze(1), t.float()), Y),
    "counts": (1, lambda o, t: F.poisson_nll_loss(o.squeeze(1), t.float()), torch.arange(16)),
    "hinge": (1, lambda o, t: (1 - o.squeeze(1) * t).clamp_min(0).mean(), 2 * Y - 1),
}


@pytest.mark.parametrize("name", OWN_LABELS)
def test_labels_are_the_loss_s_own_business(name: str) -> None:
    outputs, loss, labels = OWN_LABELS[name]
    net = nn.Linear(8, outputs)
    assert Learner(net, torch.optim.SGD(net.parameters(), 0.1), loss).step(X, labels).verdict.committed
    assert sample_losses(loss, net(X), labels).shape == (16,)


@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(), partial(F.cross_entropy, weight=None)])
def test_classes_without_an_output_are_told(loss) -> None:
    with pytest.raises(LabelError, match="wanted 0 to 1"):
        scalar_loss(loss, torch.rand(16, 2), Y + 1)
    with pytest.raises(LabelError, match=r"y\.long"):
        scalar_loss(loss, torch.rand(16, 2), Y.int())


WEIGHT = torch.tensor([20.0, 3.0])
SCALES = {
    "mean": nn.CrossEntropyLoss(),
    "class weights": nn.CrossEntropyLoss(weight=WEIGHT),
    "class weights of a function": partial(F.cross_entropy, weight=WEIGHT),
    "ignored labels and weights": nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1),
    "smoothing and weights": nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "sum of a function": partial(F.cross_entropy, reduction="sum"),
    "weights inside a lambda": lambda o, t: F.cross_entropy(o, t, weight=WEIGHT),
    "a sum inside a lambda": lambda o, t: F.cross_entropy(o, t, reduction="sum"),
}


@pytest.mark.parametrize("name", SCALES)
def test_samples_are_on_the_scale_of_the_batch(name: str) -> None:
    output = torch.randn(16, 2, generator=torch.manual_seed(1))
    values = sample_losses(SCALES[name], output, Y)
    assert torch.allclose(values.mean(), scalar_loss(SCALES[name], output, Y), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:reduction")
def test_batchmean_and_places_are_on_the_scale_of_the_batch() -> None:
    output, target = torch.randn(6, 5).log_softmax(1), torch.rand(6, 5)
    for loss in (nn.KLDivLoss(reduction="batchmean"), partial(F.kl_div, reduction="batchmean"), nn.KLDivLoss()):
        assert torch.allclose(sample_losses(loss, output, target).mean(), loss(output, target), rtol=1e-5)
    images, labels = torch.randn(4, 3, 5, 5), torch.randint(0, 3, (4, 5, 5))
    labels[0, :3] = -100
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0]))
    assert torch.allclose(sample_losses(loss, images, labels).mean(), loss(images, labels), rtol=1e-5)


@pytest.mark.parametrize("weight", [None, torch.tensor([20.0, 20.0])])
def test_a_screen_that_weights_all_alike_changes_no_step(weight: Tensor | None) -> None:
    def ones(screened: ScreenedBatch, view: View) -> ScreenedBatch:
        return screened.weight(torch.ones(len(screened.batch)))

    norms = []
    for guard in (Guard(), Guard(screens=[ones])):
        torch.manual_seed(0)
        net = nn.Linear(8, 2)
        learner = Learner(net, torch.optim.SGD(net.parameters(), 0.1), nn.CrossEntropyLoss(weight=weight), guard)
        record = learner.step(X, Y)
        norms.append((record.loss, record.gradient_norm_before))
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_a_plain_mean_is_left_alone_to_the_last_bit() -> None:
    output = torch.randn(16, 2)
    assert torch.equal(sample_losses(F.cross_entropy, output, Y), F.cross_entropy(output, Y, reduction="none"))


def test_a_loss_that_cannot_take_the_batch_is_named() -> None:
    def strange(output: Tensor, y: Tensor) -> Tensor:
        raise TypeError("not that")

    with pytest.raises(LossError, match=r"\[16, 2\].*not that"):
        scalar_loss(strange, torch.rand(16, 2), Y)
