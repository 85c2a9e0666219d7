"""The small files that a page is made from."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taster.errors import RunDirectoryError
from taster.experiments import RunDirectory
from taster.report import write_report
from taster.report.data import ReportData
from taster.report.details import Details, collect_details
from taster.report.pictures import image_strip
from taster.report.sample_pictures import LIMIT, Pictures, Samples, compress_pictures

SMALL = ("recipe.toml", "environment.json", "results.json", "details.json", "pictures.json")


@pytest.fixture
def kept(run: RunDirectory, tmp_path: Path) -> Path:
    """A run of which only the small files are kept."""
    folder = tmp_path / "kept"
    folder.mkdir()
    for name in SMALL:
        shutil.copy(run.path / name, folder)
    return folder


def test_the_small_files_alone_give_the_same_page(run: RunDirectory, kept: Path, tmp_path: Path) -> None:
    page = write_report(RunDirectory(kept), tmp_path / "pages" / "elsewhere")
    assert page == tmp_path / "pages" / "elsewhere" / "report.html"
    assert page.read_bytes() == (run.path / "report.html").read_bytes()
    assert (page.parent / "overview.png").read_bytes() == (run.path / "overview.png").read_bytes()
    assert sorted(file.name for file in kept.iterdir()) == sorted(SMALL)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"cells": 3}', '{"what": []}', '{"cells": [{"attack": "a"}]}', '{"width": 0}', '{"cells": [NaN]}'],
)
@pytest.mark.parametrize("name", ["details.json", "pictures.json"])
def test_a_damaged_file_is_an_error_that_names_it(kept: Path, name: str, content: str) -> None:
    (kept / name).write_text(content)
    with pytest.raises(RunDirectoryError, match=f"{name} is not what taster run writes: ") as told:
        ReportData.read(RunDirectory(kept))
    assert "\n" not in str(told.value)
    assert "pydantic" not in str(told.value)


def test_a_missing_file_is_an_error_that_names_it(kept: Path) -> None:
    (kept / "details.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"details\.json"):
        write_report(RunDirectory(kept))


@pytest.mark.parametrize("damage", [{"difference": "@@"}, {"difference": "aGVsbG8="}, {"clean": 99}, {"clean": 1}])
def test_a_damaged_picture_is_an_error(kept: Path, damage: dict[str, Any]) -> None:
    content = json.loads((kept / "pictures.json").read_text())
    content["samples"][0] |= damage
    wide = compress_pictures([Samples("a", "trigger", torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8))], [])
    content["clean"].insert(1, wide.clean[0])
    (kept / "pictures.json").write_text(json.dumps(content))
    with pytest.raises(RunDirectoryError, match="picture"):
        write_report(RunDirectory(kept))


def test_samples_and_their_difference_are_read_back() -> None:
    clean = torch.full((3, 1, 8, 8), 0.5)
    poisoned = clean.clone()
    poisoned[0, 0, 0, 0] += 0.25
    unchanged = Samples("b", "trigger", clean, clean)
    pictures = compress_pictures([Samples("a", "trigger", clean, poisoned), unchanged], [])
    (entry,) = pictures.samples
    assert entry.magnification == pytest.approx(2.0)
    shown, changed, difference = pictures.pair(entry)
    assert torch.allclose(shown, clean, atol=1 / 255)
    assert torch.allclose(changed, poisoned, atol=1 / 255 + 0.25 / 14)
    assert float(difference[0, 0, 0, 0]) == pytest.approx(254 / 255)
    assert float(difference[1].std()) == 0.0


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_as_many_samples_are_kept_as_fit(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(7, channels, 32, 32, generator=generator)
    samples = [Samples(f"a{i}", "trigger", clean, torch.rand(clean.shape, generator=generator)) for i in range(6)]
    pictures = compress_pictures(samples, [("a0", clean)])
    assert len(pictures.to_json()) <= LIMIT
    assert len(pictures.clean) == 1  # shared
    shown = pictures.pair(pictures.samples[0])[0]
    assert 1 <= len(shown) <= 7
    assert shown.shape[1] == (3 if channels == 3 else 1)
    frames = pictures.frames(pictures.crafting[0])
    assert torch.allclose(frames[-1], clean[-1, : frames.shape[1]], atol=1 / 255)
    assert Pictures.model_validate_json(pictures.to_json()) == pictures


def test_a_strip_enlarges_pixels_to_a_visible_size() -> None:
    for channels, mode in ((1, "L"), (3, "RGB"), (5, "L")):
        picture = Image.open(BytesIO(image_strip(torch.rand(4, channels, 8, 8))))
        assert (picture.mode, picture.size) == (mode, (35 * 7, 8 * 7))


class Cell:
    """Scores of a cell, as a run directory gives them."""

    def __init__(self, scores: dict[str, Any]) -> None:
        self._scores = scores

    def scores(self) -> dict[str, Any]:
        return self._scores


def cell(attack: str, seed: int, values: dict[str, torch.Tensor], **changes: Any) -> dict[str, Any]:
    step: dict[str, Any] = {
        "defence": "d",
        "attack": attack,
        "phase": "trigger",
        "poisoned": 1,
        "verdict": "COMMIT",
        "stage": "",
        "reason": "",
    }
    step |= {"test_accuracy": None, "derivatives": None}
    row = {"attack": attack, "defence": "d", "seed": seed, "acc_start": 90.0}
    steps = [step, {**step, "test_accuracy": 80.0, **changes}]
    return {"row": row, "steps": steps, "cell": Cell({"s": {"trigger": values}})}


def test_histograms_are_densities_of_all_seeds() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, poisoned = torch.rand(500, generator=generator), torch.rand(500, generator=generator) + 1
    poisoned[0] = float("inf")
    cells = [cell("a", seed, {"clean": clean[seed::2], "poisoned": poisoned[seed::2]}) for seed in (0, 1)]
    (histogram,) = collect_details(cells, "d", ["s"]).histograms
    every = torch.cat([clean, poisoned[1:]])
    assert histogram.low == pytest.approx(float(every.quantile(0.005)))
    edges = np.linspace(histogram.low, histogram.high, len(histogram.clean) + 1)
    wanted, _ = np.histogram(clean.clamp(histogram.low, histogram.high).numpy(), edges, density=True)
    assert histogram.clean == pytest.approx(list(wanted), rel=1e-3)
    width = (histogram.high - histogram.low) / len(histogram.clean)
    assert sum(histogram.poisoned[0].density) * width == pytest.approx(1.0, rel=1e-3)
    assert collect_details(cells, "other", ["s"]).histograms == []


def test_a_score_of_one_value_has_a_histogram() -> None:
    same = {"clean": torch.ones(5), "poisoned": torch.ones(5)}
    (histogram,) = collect_details([cell("a", 0, same)], "d", ["s"]).histograms
    assert (histogram.low, histogram.high) == (0.5, 1.5)


def test_details_count_refusals_and_keep_unmeasured_steps() -> None:
    refused = {"verdict": "REJECT", "stage": "gate", "reason": "first"}
    cells = [cell("a", seed, {}, **(refused if seed else {}), derivatives="exact") for seed in range(3)]
    details = collect_details(cells, "d", [])
    assert details.cells[0].test_accuracy == [90.0, None, 80.0]
    (entry,) = details.refusals
    assert (entry.refused, entry.steps, entry.stage, entry.reason) == (2, 6, "gate", "first")
    assert details.derivatives == {"exact": ["a"]}
    assert Details.model_validate_json(details.to_json()) == details
