"""scikit-learn's handwritten digits: real data that comes with the installation."""

from __future__ import annotations

import torch

from taster.data.images import Images, ImageSet

DIGITS = "digits"
"""The source by which these are loaded, wherever that is asked for; a folder that is called so is "./digits"."""


def digits() -> ImageSet:
    """1,797 gray images of 8x8 in ten classes, without a test split.

    Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits": its test part, as in
    scikit-learn.
    """
    from sklearn.datasets import load_digits  # half a second to import, and only needed here

    bunch = load_digits()
    x = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8)[:, None]
    return ImageSet(DIGITS, Images(x, torch.from_numpy(bunch.target).long()), None, classes=10)
