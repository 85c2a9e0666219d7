"""Training on images that have lost what the eye does not need: colour, or what JPEG leaves out."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from taster.core.batch import Batch
from taster.core.fitting import Classifier
from taster.core.threat import countermeasure
from taster.data.image_form import greyed
from taster.defences.dataset.run_checks import check_images
from taster.defences.dataset_defence import RobustTraining, TrainingRun
from taster.utils.settings import validate_settings

Quality = Annotated[int, Field(ge=1, le=95)]
"""Of JPEG, as Pillow counts it: higher is nearer to the image."""


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def grey(*, predictions: bool = False) -> RobustTraining:
    """Trains on grey images, and predicts on images as they come.

    Each pixel becomes 0.299 R + 0.587 G + 0.114 B in all three channels, so that a net for colour takes it. Images of
    one channel stay as they are.

    Args:
        predictions: whether images to be predicted are made grey as well.

    Raises (when called):
        DefenceError: unless samples are images [n, 1 or 3, h, w] within 0 to 1.
        BatchError, LabelError, DataError: see `taster.defences.dataset.run_checks.check_run`.

    Source: Liu, Zhao and Larson 2023 (image shortcut squeezing), whose code leaves images to be predicted as they are
        unless it is told otherwise.
    """
    return _trained_on("grey", greyed, predictions)


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def jpeg(*, quality: Quality = 10, predictions: bool = False) -> RobustTraining:
    """Trains on images after JPEG compression, and predicts on images as they come.

    Args:
        quality: of the compression, by Pillow.
        predictions: whether images to be predicted are compressed as well.

    Raises (when called):
        DefenceError: unless samples are images [n, 1 or 3, h, w] within 0 to 1.
        BatchError, LabelError, DataError: see `taster.defences.dataset.run_checks.check_run`.

    Source: Liu, Zhao and Larson 2023 (image shortcut squeezing), with quality 10; see `grey`.
    """
    return _trained_on("jpeg", lambda x: compressed(x, quality), predictions)


def compressed(x: Tensor, quality: int) -> Tensor:
    """The images after JPEG compression, of the same shape, type and device.

    Args:
        x: images [n, 1 or 3, h, w] within 0 to 1; rounded to 8 bits first.
        quality: see `jpeg`.
    """
    pixels = (x.detach() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    squeezed = np.stack([_through_jpeg(image, quality) for image in pixels])
    return torch.from_numpy(squeezed).permute(0, 3, 1, 2).to(x) / 255


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(pixels.shape)


@dataclass(frozen=True)
class SqueezedClassifier:
    """A classifier that squeezes what it is given.

    Attributes:
        classifier: predicts.
        change: of images, [n, c, h, w] to as many.
    """

    classifier: Classifier
    change: Callable[[Tensor], Tensor]

    def outputs(self, x: Tensor) -> Tensor:
        """Scores of the squeezed images, [n, classes]."""
        return self.classifier.outputs(self.change(x))


def _trained_on(name: str, change: Callable[[Tensor], Tensor], predictions: bool) -> RobustTraining:
    def train(run: TrainingRun) -> tuple[Classifier, None]:
        samples = check_images(run, name)
        classifier = run.fit(Batch(change(samples.x), samples.y), seed=run.seed)
        return SqueezedClassifier(classifier, change) if predictions else classifier, None

    return RobustTraining(train)
