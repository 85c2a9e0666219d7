"""What the documents tell is true: their code runs, their links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import textwrap
import tomllib
import warnings
from pathlib import Path

import pytest
import torch

from taster import Guard, Phase, detection_bound, probe
from taster.attacks import OnlineAttack
from taster.core.checkpoint import FILE
from taster.core.guard import STAGE
from taster.core.loading import LEARNER
from taster.core.quarantine import ENTRY
from taster.experiments import shipped_recipes
from taster.experiments.protect.manifest import PROTECTED
from taster.experiments.recipes.catalogue import catalogue, catalogue_markdown
from taster.experiments.recipes.raw_values import RECIPE
from taster.experiments.recipes.threats import threats, threats_markdown
from taster.experiments.results import RUN
from taster.stats.detection_bound import held_out_samples
from tests.conftest import TinyNet, tiny_batch, tiny_learner

ROOT = Path(__file__).parent.parent


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_the_readmes_loop_guards_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model, trusted = TinyNet(), tiny_batch(50, seed=9)
    broken = tiny_batch()
    broken.x[0] = float("nan")
    names = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "x_trusted": trusted.x,
        "y_trusted": trusted.y,
        "stream": [(b.x, b.y) for b in (tiny_batch(seed=1), broken, tiny_batch(seed=2))],
    }
    code, own_step = blocks("README.md")
    assert len(code.strip().splitlines()) <= 14
    exec(code, names)
    assert names["learner"].steps == 3
    assert "1 finite_values samples or labels hold NaN" in capsys.readouterr().out
    exec(own_step, names)
    assert names["guarded"].counters["rejected"] == 1
    assert "gradient norm is nan" in capsys.readouterr().out


def test_the_guides_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, trusted = TinyNet(), tiny_batch(50, seed=9)
    stream = tiny_batch(seed=1)
    names: dict[str, object] = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss": torch.nn.functional.cross_entropy,
        "x_trusted": trusted.x,
        "y_trusted": trusted.y,
        "x": stream.x,
        "y": stream.y,
        "probe": trusted,
        "training_samples": tiny_batch(40, seed=2),
    }
    for code in blocks("docs/guard.md"):
        if "lightning" in code:
            pytest.importorskip("lightning", reason="needs the extra: pip install taster[lightning]")
        with warnings.catch_warnings():  # Lightning's advice
            warnings.simplefilter("ignore")
            exec(code, names)
    assert names["learner"].counters["steps"] == 0  # type: ignore[attr-defined]
    assert names["learner"].on_refusal.path == Path("quarantine")  # type: ignore[attr-defined]


def test_the_federated_guides_code_runs() -> None:
    torch.manual_seed(0)
    learner, trusted = tiny_learner(), tiny_batch(50, seed=9)
    size = sum(p.numel() for p in learner.model.parameters())
    sent = {f"client {i}": 0.01 * torch.randn(size) for i in range(8)}
    names: dict[str, object] = {
        "model": learner.model,
        "optimizer": learner.optimizer,
        "x_trusted": trusted.x,
        "y_trusted": trusted.y,
        "sent": sent,
        "names": [*sent, "client 8"],
    }
    code, *_ = blocks("docs/federated.md")  # the rest is Flower's, see tests/flower
    exec(code, names)
    assert names["outcome"].rejected_clients == {"client 8": "sent nothing"}  # type: ignore[attr-defined]
    assert names["outcome"].record.verdict.committed  # type: ignore[attr-defined]


def test_the_guides_bounds_are_what_is_computed() -> None:
    text = (ROOT / "docs" / "guard.md").read_text()
    rows = re.findall(r"^\| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 6
    for row in rows:
        samples = int(row[0].replace(",", ""))
        options = {"alpha": 0.01 / (2 if held_out_samples(samples) else 8), "churn": 1.0}
        found = [
            detection_bound(samples, **options, **more).max_accuracy_drop
            for more in ({}, {"checks": 1000}, {"checks": 1000, "refusals": 10})
        ]
        assert [f"{fall:.1f}" for fall in found] == list(row[1:])
    rate = 100 * detection_bound(5000, alpha=0.01 / 2, churn=1.0, checks=1000).false_alarm_rate
    assert f"(5,000 samples, 1,000 checks, churn 1 %: in at most {rate:.1f} % of runs)" in " ".join(text.split())


def test_the_code_on_probes_runs_and_its_sizes_are_what_is_computed(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model, stream = TinyNet(), tiny_batch(200, seed=9)
    names: dict[str, object] = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss": torch.nn.functional.cross_entropy,
        "data": stream,
        "fresh": tiny_batch(60, seed=10),
    }
    for code in blocks("docs/probes.md"):
        exec(code, names)
    assert "A probe of 60 samples" in capsys.readouterr().out
    text = (ROOT / "docs" / "probes.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE)
    assert len(rows) == 3
    for drop, *sizes in rows:
        assert sizes == [f"{probe.size(float(drop), refusals=refusals):,}" for refusals in (0, 20)]


def test_the_code_on_data_from_elsewhere_runs(capsys: pytest.CaptureFixture[str]) -> None:
    data, fresh = tiny_batch(200, seed=9), tiny_batch(20, seed=10)
    names: dict[str, object] = {
        "x_train": data.x,
        "y_train": data.y,
        "x_test": fresh.x,
        "y_test": fresh.y,
        "day": torch.arange(200) % 8,
        "newest": 7,
        "pixels": data.x[0].numel(),
        "classes": 3,
        "partitions": 20,
    }
    for code in blocks("docs/offline.md"):
        exec(code, names)
    said = capsys.readouterr().out
    assert "samples hold" in said
    assert "days ago or later" in said


def test_contributors_examples_run() -> None:
    attack, defence = blocks("CONTRIBUTING.md")
    names: dict[str, object] = {}
    exec(attack, names)
    campaign = names["brighten"](epsilon=0.2)
    assert isinstance(campaign, OnlineAttack)
    fed = campaign.poison(tiny_batch(), tiny_learner().view(), Phase.TRIGGER)
    assert float((fed.x - tiny_batch().x).max()) == pytest.approx(0.2)
    exec(defence, names)
    guard = names["sign"]()
    assert isinstance(guard, Guard)
    assert tiny_learner(guard=guard).step(tiny_batch()).verdict.committed


def documents() -> list[str]:
    """Every page that people read, but for the notes inside folders of results."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").glob("*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


@pytest.mark.parametrize("name", documents())
def test_links_lead_somewhere(name: str) -> None:
    document = ROOT / name
    text = re.sub(r"^ *```.*?^ *```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not link.startswith("http"):
            assert (document.parent / link).exists(), link


def check_syntax(language: str, code: str) -> None:
    """Raises what the language's own parser raises."""
    if language == "python":
        ast.parse(code)
    elif language == "toml":
        tomllib.loads(code)
    elif language == "json":
        json.loads(code)
    elif language in ("bash", "sh"):
        run = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, check=False)
        if run.returncode:
            raise SyntaxError(run.stderr)


@pytest.mark.parametrize("name", documents())
def test_every_block_of_code_can_be_parsed(name: str) -> None:
    """Those that run are run in the tests above, and in tutorials when the site is built."""
    text = (ROOT / name).read_text()
    found = re.findall(r"^( *)```(\w+)[^\n]*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    assert len(found) == len(re.findall(r"^ *```\w", text, re.MULTILINE))
    for _, language, code in found:
        assert language in ("python", "toml", "json", "bash", "sh", "text", "pycon", "yaml"), language
        check_syntax(language, textwrap.dedent(code))


@pytest.mark.parametrize(
    ("language", "code"), [("python", "a ="), ("toml", "= 1"), ("json", "{"), ("bash", "if true; then")]
)
def test_code_that_cannot_be_parsed_would_be_seen(language: str, code: str) -> None:
    with pytest.raises((SyntaxError, ValueError)):
        check_syntax(language, code)


def test_the_readme_has_short_lines() -> None:
    assert [line for line in (ROOT / "README.md").read_text().splitlines() if len(line) > 120] == []


def test_the_catalogue_is_what_taster_lists() -> None:
    found = catalogue_markdown(catalogue())
    assert (ROOT / "docs" / "catalogue.md").read_text() == found, "run: taster list --markdown > docs/catalogue.md"


def test_the_page_on_threats_is_what_taster_lists() -> None:
    found = threats_markdown(threats())
    assert (ROOT / "docs" / "threats.md").read_text() == found, "run: taster list --threat --markdown > docs/threats.md"


@pytest.mark.parametrize(
    "word", ["probe", "anchor", "trigger", "burn-in", "drop", "cost", "refused", "screened", "ASR", "backdoor trigger"]
)
def test_the_glossary_defines_each_word_once(word: str) -> None:
    assert len(re.findall(rf"^\| \*\*{word}\*\*", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)) == 1


def test_every_section_of_a_recipe_is_described() -> None:
    from taster.experiments import Recipe

    text = (ROOT / "docs" / "recipes.md").read_text()
    for name, field in Recipe.model_fields.items():
        assert f"`{name}`" in text or f"[{name}]" in text
        for key in getattr(field.annotation, "model_fields", {}):
            assert f"`{key}`" in text, f"{name}.{key}"
    assert set(shipped_recipes()) >= {"quickstart", "mnist"}


def test_commands_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for script in re.findall(r"scripts/\w+\.sh", text):
        assert (ROOT / script).stat().st_mode & 0o111


def test_the_formats_that_the_page_on_versions_names_are_those_that_are_written() -> None:
    text = (ROOT / "docs" / "versions.md").read_text()
    rows = re.findall(r"^\| (.+?) \| .+? \| (\d+) \| (\d+)(?: to \d+)? \|$", text, re.MULTILINE)
    formats = {form.what: form for form in (FILE, LEARNER, STAGE, ENTRY, RUN, RECIPE, PROTECTED)}
    assert len(rows) == len(formats)
    for named, written, oldest in rows:
        (form,) = [form for what, form in formats.items() if named.replace("`", "").startswith(what)]
        assert (form.version, form.oldest) == (int(written), int(oldest)), named
