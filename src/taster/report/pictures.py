"""Images in a row, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from taster.errors import QuarantineError
from taster.report.figures import as_png

_GAP = 1
_WIDTH = 56


def image_strip(images: Tensor) -> bytes:
    """Images [n, c, h, w] in [0, 1] in a row, as a PNG with every pixel enlarged to a visible size."""
    n, channels, height, width = images.shape
    row = torch.full((channels, height, n * (width + _GAP) - _GAP), 0.5)
    for i in range(n):
        left = i * (width + _GAP)
        row[:, :, left : left + width] = images[i]
    array = (row * 255).round().clamp(0, 255).to(torch.uint8)
    array = array[:1] if channels not in (1, 3) else array
    picture = Image.fromarray(
        array.permute(1, 2, 0).squeeze(2).numpy() if len(array) == 1 else array.permute(1, 2, 0).numpy()
    )
    scale = max(1, _WIDTH // width)
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return buffer.getvalue()


def contact_sheet(rows: Sequence[tuple[str, Tensor, Tensor]], *, shown: int = 12) -> bytes:
    """A PNG with a strip for each row: its title, the first of its images [n, c, h, w] in [0, 1], and their labels [n].

    Raises:
        QuarantineError: when there are no rows, or they are not images.
    """
    if not rows or any(x.dim() != 4 for _, x, _ in rows):
        raise QuarantineError("got nothing to show as pictures, wanted batches of images, [n, c, h, w]")
    figure = Figure(figsize=(0.62 * shown + 0.4, 1.15 * len(rows) + 0.2), layout="constrained")
    for axes, (title, x, y) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        labels = " ".join(str(int(label)) if label.dim() == 0 else "" for label in y[:shown])
        axes.imshow(
            Image.open(io.BytesIO(image_strip(x[:shown].float().clamp(0, 1)))), cmap="gray", interpolation="nearest"
        )
        axes.set_title(f"{title}   labels {labels}", fontsize=8, loc="left")
        axes.set_axis_off()
    return as_png(figure)
