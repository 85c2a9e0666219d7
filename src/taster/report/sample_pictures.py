"""Pictures of clean and poisoned samples, kept small in pictures.json."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from taster.errors import RunDirectoryError
from taster.utils.compact_json import dump_compact

LIMIT = 64_000
"""Bytes of pictures.json: as many samples are kept as fit into it, and at least one."""

_SHOWN = 10
_LEVELS = 7  # of a difference on each side of zero: noise in full precision cannot be compressed
_STEP = 18  # gray values between two levels, around 128


class _Part(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SamplePair(_Part):
    """Samples of one attack and phase: the place of the clean ones in `Pictures.clean`, and the difference as a PNG in
    base64, where 128 is none and 2 and 254 are the `greatest`."""

    attack: str
    phase: str
    clean: Annotated[int, Field(ge=0)]
    difference: str
    greatest: Annotated[float, Field(gt=0)]

    @property
    def magnification(self) -> float:
        """Of the difference: its greatest value spans half of the range."""
        return 0.5 / self.greatest


class CraftingFrames(_Part):
    """One sample at iterations of its crafting, from the first to the last, as a PNG in base64."""

    attack: str
    frames: str


class Pictures(_Part):
    """The content of pictures.json. Each PNG holds images of `width` pixels side by side."""

    width: Annotated[int, Field(ge=1)] = 1
    clean: list[str] = []
    samples: list[SamplePair] = []
    crafting: list[CraftingFrames] = []

    def to_json(self) -> str:
        """One line for each picture."""
        return dump_compact(self.model_dump())

    def pair(self, entry: SamplePair) -> tuple[Tensor, Tensor, Tensor]:
        """Clean samples, poisoned samples and the magnified difference, each [n, c, h, w] in [0, 1].

        Raises:
            RunDirectoryError: when a picture cannot be read.
        """
        if entry.clean >= len(self.clean):
            raise RunDirectoryError(f"pictures.json: got clean picture {entry.clean} of {len(self.clean)}")
        clean, difference = self._decode(self.clean[entry.clean]), self._decode(entry.difference)
        if clean.shape != difference.shape:
            raise RunDirectoryError(
                f"pictures.json: a difference of shape {list(difference.shape)} for samples of {list(clean.shape)}"
            )
        change = (difference * 255 - 128) / (_STEP * _LEVELS) * entry.greatest
        return clean, (clean + change).clamp(0, 1), difference

    def frames(self, entry: CraftingFrames) -> Tensor:
        """A sample at iterations of its crafting, [n, c, h, w] in [0, 1].

        Raises:
            RunDirectoryError: when the picture cannot be read.
        """
        return self._decode(entry.frames)

    def _decode(self, text: str) -> Tensor:
        try:
            picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"])
            array = np.asarray(picture.convert("L" if picture.mode == "L" else "RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise RunDirectoryError(f"pictures.json: a picture cannot be read: {error}") from error
        if array.shape[1] % self.width:
            raise RunDirectoryError(
                f"pictures.json: got a picture {array.shape[1]} pixels wide, wanted a multiple of {self.width}"
            )
        images = torch.from_numpy(array.copy()).reshape(array.shape[0], -1, self.width, 1 if array.ndim == 2 else 3)
        return images.permute(1, 3, 0, 2).float() / 255


class Samples(NamedTuple):
    """Clean and poisoned samples of one attack and phase, each [n, c, h, w] in [0, 1]."""

    attack: str
    phase: str
    clean: Tensor
    poisoned: Tensor


def collect_pictures(cells: Sequence[Mapping[str, Any]], attacks: Sequence[str]) -> Pictures:
    """Gathers the pictures of a run: of each attack, from its first cell that has any.

    Args:
        cells: of `RunDirectory.finished`.
        attacks: labels of the recipe's attacks.
    """
    samples, crafting = [], []
    for attack in attacks:
        own = [cell for cell in cells if cell["row"]["attack"] == attack]
        images = own[0]["cell"].images() if own else None
        samples += [Samples(attack, phase, *pair[:2]) for phase, pair in (images or {}).items() if phase != "forming"]
        crafted = next((cell for cell in own if cell.get("forming")), None)
        if crafted is not None:
            crafting.append((attack, crafted["cell"].images()["forming"]))
    return compress_pictures(samples, crafting)


def compress_pictures(samples: Sequence[Samples], crafting: Sequence[tuple[str, Tensor]]) -> Pictures:
    """As many of the samples as fit into `LIMIT`; those of attacks that changed none are left out.

    Args:
        samples: of attacks and phases.
        crafting: label of an attack and one sample at iterations of its crafting, [n, c, h, w] in [0, 1].
    """
    changed = [entry for entry in samples if not bool((entry.clean == entry.poisoned).all())]
    for shown in range(_SHOWN, 0, -1):
        pictures = _compress(changed, crafting, shown)
        if len(pictures.to_json()) <= LIMIT:
            break
    return pictures


def _compress(samples: Sequence[Samples], crafting: Sequence[tuple[str, Tensor]], shown: int) -> Pictures:
    clean: dict[str, int] = {}
    pairs = []
    for attack, phase, original, poisoned in samples:
        change = (poisoned[:shown] - original[:shown]).float()
        greatest = float(change.abs().max())
        levels = (change / (greatest or 1.0) * _LEVELS).round() * _STEP + 128
        place = clean.setdefault(_encode(original[:shown].float() * 255), len(clean))
        pairs.append(
            SamplePair(
                attack=attack,
                phase=phase,
                clean=place,
                difference=_encode(levels),
                greatest=float(f"{greatest or 1.0:.6g}"),
            )
        )
    frames = []
    for attack, images in crafting:
        last = len(images) - 1
        kept = sorted({round(i * last / max(1, shown - 1)) for i in range(shown)} | {last})
        frames.append(CraftingFrames(attack=attack, frames=_encode(images[kept].float() * 255)))
    widths = {x.shape[3] for x in [*(entry.clean for entry in samples), *(images for _, images in crafting)]}
    return Pictures(width=max(widths, default=1), clean=list(clean), samples=pairs, crafting=frames)


def _encode(images: Tensor) -> str:
    """Images [n, c, h, w] in [0, 255] side by side; of channels that are neither gray nor RGB the first."""
    pixels = images.round().clamp(0, 255).to(torch.uint8).cpu()
    pixels = pixels if pixels.shape[1] in (1, 3) else pixels[:, :1]
    rows = pixels.permute(2, 0, 3, 1).reshape(pixels.shape[2], -1, pixels.shape[1])
    picture = Image.fromarray(rows.numpy() if rows.shape[2] == 3 else rows.squeeze(2).numpy())
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
