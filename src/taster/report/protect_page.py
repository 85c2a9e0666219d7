"""The page beside protected copies: for a person who publishes images, in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taster.core.checkpoint import write_atomically
from taster.experiments.protect import Measurement, Protection
from taster.experiments.protect.manifest import PAGE
from taster.experiments.protect.measure import KINDS, PLAIN, Score
from taster.report.blocks import Block, Definitions, Section, Strip, Strips, Table, Text
from taster.report.figure_files import data_uri
from taster.report.page import page_template
from taster.report.pictures import image_strip
from taster.report.verdict_text import Headline
from taster.stats.proportion import Proportion

_SHOWN = 8
_LEVELS = 255

_WORDS = {
    PLAIN: "nothing: trains on the images as they find them",
    "grey": "takes the colour away",
    "jpeg": "compresses the images strongly (JPEG, quality 10)",
    "mixup": "blends images with each other (mixup)",
    "cutmix": "pastes parts of images into others (CutMix)",
    "cutout": "cuts a square out of each image (Cutout)",
    "gaussian_noise": "adds noise of their own",
    "early_stopping": "stops when a few clean images are recognised best",
    "clean_share": "has a few clean images, and trains on these as well",
    "adversarial_training": "trains against small changes (adversarial training)",
}


@dataclass(frozen=True)
class _About:
    description: str
    source: str


def write_protect_page(protection: Protection, found: Measurement | None) -> None:
    """Writes protect.html into the folder of the copies.

    Args:
        protection: what was written.
        found: what a scraper would learn; None if it was not measured.

    Raises:
        OSError: if it cannot be written.
    """
    method = protection.request.method
    sections = [
        *([] if found is None else [_scraper(found), _noise_by_itself(found)]),
        _pictures(protection),
        _limits(found),
        _how(protection, found),
    ]
    page = page_template().render(
        title=f"{len(protection.found)} protected images",
        headline=_verdict(found),
        cautions=[],
        recipe=_About(
            "Copies with noise that is to keep nets from learning from them.",
            method.source.split(" (")[0].rstrip("."),
        ),
        sentences=_lead(found),
        missing=0,
        expected=0,
        sections=[section for section in sections if section is not None],
    )
    write_atomically(protection.request.out / PAGE, page.encode())


def _lead(found: Measurement | None) -> list[str]:
    keep = (
        "Keep this page to yourself: it shows originals. Publish what is in images/, and nothing else of this folder."
    )
    if found is None:
        return [keep]
    plain = found.scores[PLAIN]
    shares = {kind: f"{plain[kind].accuracy:.0f} %" for kind in KINDS}
    return [
        f"Somebody who trains a small net on {found.trained} of your images recognises {shares['unprotected']} of "
        f"other, clean ones. On the protected copies it is {shares['protected']}; on copies with random noise of the "
        f"same size {shares['random noise']}. Naming the most frequent kind every time gets {found.chance:.0f} %.",
        keep,
    ]


def _verdict(found: Measurement | None) -> Headline:
    """What the figures come to."""
    if found is None:
        return Headline(
            "unsettled", "Not measured", "what a scraper would learn of these copies is not known; --measure tells."
        )
    plain = found.scores[PLAIN]
    if not _apart(plain["unprotected"], plain["protected"]):
        return Headline(
            "unsettled",
            "Not shown",
            "with as few test images as these there is no difference: nothing here shows that the copies protect. Take "
            "a larger ε, another method, or more images.",
        )
    if not _apart(plain["random noise"], plain["protected"]):
        return Headline("broken", "Nothing won", "random noise of the same size does as much as this method.")
    others = {name: scores["protected"] for name, scores in found.scores.items() if name != PLAIN}
    if not others:
        return Headline(
            "held",
            "Protected from plain training",
            "what a scraper who knows about such noise would get was not measured.",
        )
    name = max(others, key=lambda name: others[name].accuracy)
    best = (
        f"the best of {len(others)} countermeasures tried ({name}) brings the protected copies to "
        f"{others[name].accuracy:.0f} %"
    )
    if not _apart(plain["unprotected"], others[name]):
        return Headline("broken", "Undone", f"who knows about such noise learns from them all the same: {best}.")
    return Headline("held", "Protected from plain training", f"who knows about such noise gets more: {best}.")


def _apart(a: Score, b: Score) -> bool:
    """Whether the intervals of two scores do not overlap, each from all seeds' tests together."""
    (low_a, high_a), (low_b, high_b) = _interval(a), _interval(b)
    return high_b < low_a or high_a < low_b


def _interval(score: Score) -> tuple[float, float]:
    """Of the seeds' mean as if each image had been tested once: seeds share most of their images."""
    return Proportion(round(sum(score.hits) / len(score.hits)), score.tested).interval()


def _shown(score: Score) -> str:
    low, high = _interval(score)
    return f"{score.accuracy:.0f} ({100 * low:.0f} to {100 * high:.0f})"


def _scraper(found: Measurement) -> Section:
    rows = [
        [_WORDS[name], *(_shown(scores[kind]) for kind in KINDS), _brought_back(found, name)]
        for name, scores in found.scores.items()
    ]
    return Section(
        "What a scraper would get",
        [
            Text(
                "Percentage of clean images, new to the net, that it recognises after training on the images of a "
                "column. A low figure in the column “protected” is good for you; a row with a high one is a way "
                "around the protection."
            ),
            Table(
                "What a scraper would get: images recognised, in %",
                ["what the scraper does", *KINDS, "brings back"],
                rows,
                wrapped=(0,),
                bad=frozenset(
                    (number, 3)
                    for number, scores in enumerate(found.scores.values())
                    if not _apart(scores["unprotected"], scores["protected"])
                ),
            ),
            Text(
                f"{_trainings(found.seeds)} on {found.trained} images and tested on {found.tested} others; in brackets "
                "the range that so few test images leave (95 %). Red: no difference from the originals, trained on in "
                "the same way, that so few would show. “Brings back”: how much of what the protection had taken from "
                "the plain training. For stopping early and for training on clean ones as well, the scraper has "
                f"{found.trusted} clean images.",
                "soft",
            ),
        ],
    )


def _trainings(seeds: int) -> str:
    return "One training" if seeds == 1 else f"Mean of {seeds} trainings, each"


def _brought_back(found: Measurement, name: str) -> str:
    plain = found.scores[PLAIN]
    taken = plain["unprotected"].accuracy - plain["protected"].accuracy
    if name == PLAIN or not _apart(plain["unprotected"], plain["protected"]):
        return "–"
    return f"{100 * (found.scores[name]['protected'].accuracy - plain['protected'].accuracy) / taken:.0f} %"


def _noise_by_itself(found: Measurement) -> Section | None:
    sizes = found.sizes
    if sizes is None:
        return None
    entries = [
        ("largest change", f"{sizes.largest * _LEVELS:.1f} of 255 levels"),
        ("PSNR", f"{sizes.psnr:.1f} dB; above 40 hardly anybody sees a difference, below 30 most do"),
        *([] if sizes.ssim is None else [("SSIM", f"{sizes.ssim:.3f}; 1 is the original")]),
        ("a linear model tells the noise", f"{sizes.linear:.0f} % by class"),
        ("a small net tells the noise", f"{sizes.two_layer:.0f} % by class"),
        *([] if math.isnan(sizes.csd) else [("CSD", f"{sizes.csd:.2f}; less is better separated by class")]),
    ]
    return Section(
        "The noise by itself",
        [
            Text(
                "Such noise works where it tells the classes apart more simply than the images do: a net then learns "
                "the noise."
            ),
            Definitions(entries),
        ],
    )


def _pictures(protection: Protection) -> Section:
    places = _spread(protection.labels)
    clean, protected = protection.clean[places], protection.protected[places]
    change = protected - clean
    greatest = float(change.abs().max()) or 1.0
    rows = [
        Strip("original", _strip(clean), "images as they were"),
        Strip("protected", _strip(protected), "the same images with noise"),
        Strip("difference", _strip(0.5 + 0.5 * change / greatest), "the noise by itself, amplified; grey is none"),
    ]
    height, width = protection.size
    blocks: list[Block] = [
        Strips("", [(f"{len(places)} images; difference × {0.5 / greatest:.0f}", rows)]),
        Text("Look at the copies in images/ themselves, at full size, before you publish them.", "soft"),
    ]
    if protection.resized:
        blocks.append(
            Text(
                f"{protection.resized} of {len(protection.found)} images are not {width} x {height} pixels: noise was "
                "made at that size and enlarged, and all that is measured here is at that size. What is left of it for "
                "a scraper who keeps more pixels was not measured.",
                "soft",
            )
        )
    return Section("How it looks", blocks)


def _spread(labels: Tensor) -> Tensor:
    """Places of a few images, of as many classes as there are."""
    order = torch.argsort(labels, stable=True)
    return order[torch.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().long()]


def _strip(images: Tensor) -> str:
    return data_uri(image_strip(images), "image/png")


def _limits(found: Measurement | None) -> Section:
    words = [
        "No method is a lock. What is published once cannot be called back, and the scraper moves after you.",
        "Whoever keeps the copies can wait for a better model. Noise is made against what is known today; a net "
        "that is not fooled by it learns from the copies that are out there already (Radiya-Dixit and Tramèr 2021, on "
        "photographs of faces).",
        "Whoever has clean images of the same kind learns from those. That may be images that you published before, "
        "that others took, or that were read from a screen in another way. All has to be protected: a part of the set "
        "protected hides nothing of the rest.",
        "Whoever knows of the noise can train in a way that it does not fool; the table shows some ways, and there are "
        "more."
        if found is not None and len(found.scores) > 1
        else "Whoever knows of the noise can train in a way that it does not fool: without colour, after strong "
        "compression, or against small changes. None of that was measured here.",
        "The net that was trained here is small. A scraper's is larger, has probably learned from other images before, "
        "and makes more of yours; figures here compare, and promise nothing.",
        "A platform that shrinks or compresses what you upload changes the noise. Download a copy from there, and "
        "measure that.",
    ]
    return Section("What no method can do", [Text(word) for word in words])


def _how(protection: Protection, found: Measurement | None) -> Section:
    request, method = protection.request, protection.request.method
    ball = method.ball
    entries: Sequence[tuple[str, str]] = [
        ("method", f"{method.name}: {method.summary}"),
        ("settings", ", ".join(f"{key} = {_number(value)}" for key, value in method.settings.items())),
        ("bound", f"{ball.norm}, ε = {ball.epsilon:.4g} of 1" + (_levels(ball.epsilon) if ball.norm == "linf" else "")),
        ("noise made at", f"{protection.size[1]} x {protection.size[0]} pixels"),
        ("seed", str(request.seed)),
        ("classes", f"{len(protection.found.class_names)}: " + ", ".join(protection.found.class_names)),
        ("files left alone", str(protection.found.others)),
        ("EXIF", "dropped" if request.strip_exif else "kept, without its preview"),
        ("measured", "no" if found is None else "on a small convolutional net, from random weights"),
    ]
    return Section(
        "How this was made",
        [
            Definitions(entries),
            Text(
                "Files are PNG, as JPEG would change the noise. protect.json has a hash of each; taster protect "
                "--check on this folder tells whether all are there and unchanged."
            ),
        ],
    )


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _levels(epsilon: float) -> str:
    return f", {int(epsilon * _LEVELS + 1e-4)} of 255 levels"
