"""The page beside protected copies says what the figures come to, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from taster.experiments.protect import Measurement, Protection, ProtectRequest, find_method
from taster.experiments.protect.image_files import FoundImages
from taster.experiments.protect.measure import Kind, Score
from taster.report.protect_page import write_protect_page


def scores(unprotected: int, noisy: int, protected: int) -> dict[Kind, Score]:
    """Hits of 100."""
    kinds: dict[Kind, int] = {"unprotected": unprotected, "random noise": noisy, "protected": protected}
    return {kind: Score((hits, hits), 100) for kind, hits in kinds.items()}


def page(folder: Path, found: Measurement | None, resized: int = 0) -> str:
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    names = tuple(f"{label}/{number}.png" for number, label in enumerate("aaabbb"))
    images = FoundImages(folder / "photos", names, (0, 0, 0, 1, 1, 1), ("a", "b<i>"), 2)
    request = ProtectRequest(folder / "photos", folder, find_method("synthetic_noise"))
    made = Protection(request, images, (8, 8), x, (x + 0.03).clamp(0, 1), torch.tensor(images.labels), resized)
    write_protect_page(made, found)
    return " ".join((folder / "protect.html").read_text().split())


def measured(*rows: dict[Kind, Score]) -> Measurement:
    return Measurement(200, 30, 100, 25.0, 2, dict(zip(("none", "jpeg", "mixup"), rows, strict=False)), None)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (measured(scores(60, 60, 55)), "nothing here shows that the copies protect"),
        (measured(scores(70, 30, 28)), "random noise of the same size does as much"),
        (measured(scores(70, 68, 25)), "would get was not measured"),
        (
            measured(scores(70, 68, 25), scores(70, 70, 40), scores(70, 70, 66)),
            "the best of 2 countermeasures tried (mixup) brings the protected copies to 66 %",
        ),
    ],
)
def test_the_verdict_is_that_of_the_figures(tmp_path: Path, found: Measurement, wanted: str) -> None:
    verdicts = (
        "nothing here shows",
        "does as much",
        "would get was not measured",
        "countermeasures tried",
    )
    text = page(tmp_path, found)
    assert wanted in text
    assert sum(verdict in text for verdict in verdicts) == 1


def test_what_was_brought_back_is_a_share_of_what_was_taken(tmp_path: Path) -> None:
    text = page(tmp_path, measured(scores(70, 68, 20), scores(70, 70, 45)))
    assert "50 %" in text
    assert '<td class="bad">' not in text
    text = page(tmp_path, measured(scores(70, 68, 20), scores(70, 70, 68)))
    assert '<td class="bad">68 (58 to 77)</td>' in text


def test_it_says_what_was_not_measured_and_names_are_escaped(tmp_path: Path) -> None:
    text = page(tmp_path, None, resized=4)
    assert "what a scraper would learn of these copies is not known" in text
    assert "4 of 6 images are not 8 x 8 pixels" in text
    assert "None of that was measured here." in text
    assert "b&lt;i&gt;" in text
    assert "b<i>" not in text
    assert "Keep this page to yourself" in text
