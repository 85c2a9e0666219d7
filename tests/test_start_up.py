"""What is loaded when: seconds of scikit-learn, SciPy, Datasets and matplotlib are not spent before they are needed."""

from __future__ import annotations

import subprocess
import sys

_HEAVY = {"datasets", "jinja2", "lightning", "matplotlib", "pandas", "river", "scipy", "sklearn", "transformers"}
_TORCH = {"torch", "numpy", "pydantic"}

_COMMANDS = """
import contextlib, io, sys
from taster.cli import main
def command(*arguments):
    sys.argv = ["taster", *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main()
"""


def loaded(code: str) -> set[str]:
    """The top-level packages that a new interpreter has loaded after this code."""
    shown = f"{code}\nimport sys\nprint(*sorted(name for name in sys.modules if '.' not in name))"
    return set(output_of("-c", shown).split())


def output_of(*arguments: str) -> str:
    run = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def test_importing_taster_loads_nothing() -> None:
    assert "scipy" in loaded("import scipy")  # what is looked for would be seen
    assert loaded("import taster").isdisjoint(_HEAVY | _TORCH)


def test_help_loads_neither_torch_nor_anything_heavy() -> None:
    found = loaded(_COMMANDS + 'command("--help"); command("--version"); command("run", "--help")')
    assert "typer" in found
    assert found.isdisjoint(_HEAVY | _TORCH)


def test_lists_recipes_and_the_start_of_a_run_load_nothing_heavy_besides_torch() -> None:
    found = loaded(
        _COMMANDS + 'command("list"); command("list", "--threat"); command("show", "quickstart")\n'
        "import taster.experiments.running.runner"
    )
    assert "torch" in found
    assert found.isdisjoint(_HEAVY)


def test_no_public_name_loads_anything_heavy_or_warns() -> None:
    """Warnings of torch's own import, as torch 2.14's, are torch's."""
    found = loaded(
        "import torch, torch.nn, torch.func, warnings\nwarnings.simplefilter('error')\n"
        "import taster\nfor name in taster.__all__: getattr(taster, name)"
    )
    assert found.isdisjoint(_HEAVY)


def test_the_import_warns_of_nothing() -> None:
    assert output_of("-W", "error", "-c", "import taster") == ""
