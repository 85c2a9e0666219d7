"""What is kept says in which form: another one is refused in words, and so is what lacks a part."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests.conftest import TinyNet, tiny_batch, tiny_learner
from tests.core.pair import digest

from taster import Guard, Quarantine, guard, load_state, save_state
from taster.core.format_version import KEY, Format, fault_text
from taster.core.learner import Learner
from taster.core.verdict import reject
from taster.defences import DEFENCES
from taster.errors import CheckpointError, QuarantineError

NEWER = 1_000
THING = Format("a thing", 3, CheckpointError, oldest=2, unmarked=None, remedy="make a new one")


def marked_guard() -> Guard:
    """Two stages that keep state, and one between them that keeps none."""
    return (
        DEFENCES["quantile_clipping"]()
        + Guard(transforms=[lambda gradient, view: gradient])
        + guard(tiny_batch(60, seed=9))
    )


def watched(steps: int = 3) -> Learner:
    torch.manual_seed(0)
    model = TinyNet()
    learner = Learner(
        model,
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        torch.nn.functional.cross_entropy,
        marked_guard(),
    )
    for i in range(steps):
        learner.step(tiny_batch(seed=i))
    return learner


def test_a_version_is_checked() -> None:
    assert THING.mark() == {KEY: 3}
    assert [THING.check(version) for version in (2, 3)] == [2, 3]
    assert Format("a thing", 3, CheckpointError).check(None) == 1


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (4, "here: got a thing of format 4, this taster reads up to 3: a newer one wrote it"),
        (1, "here: got a thing of format 1, this taster reads from 2 on: make a new one"),
        (None, "here: got None as taster_format of a thing, wanted a whole number"),
        (0, "got 0 as taster_format"),
        (True, "got True as taster_format"),
        ("3", "got '3' as taster_format"),
    ],
)
def test_another_version_is_refused_with_what_to_do(found: Any, wanted: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(wanted)):
        THING.check(found, "here")


def test_a_missing_key_is_told_in_words() -> None:
    assert fault_text(KeyError("anchor")) == "it has no 'anchor'"
    assert fault_text(TypeError("no")) == "TypeError: no"


def test_files_say_their_version(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    save_state(path, {"a": torch.ones(2)})
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    (name,) = metadata  # several would be written in no order
    structure = json.loads(metadata[name])
    assert structure[KEY] == 1
    save_file({"0": torch.ones(2)}, path, metadata={name: json.dumps(structure["state"])})  # as taster 0.1 wrote it
    assert torch.equal(load_state(path)["a"], torch.ones(2))
    for version in (NEWER, "x", -1):
        save_file({"0": torch.ones(2)}, path, metadata={name: json.dumps({**structure, KEY: version})})
        with pytest.raises(CheckpointError, match=r"s\.safetensors: got .*a file of taster\.save_state"):
            load_state(path)


def test_a_learners_state_says_its_version_and_one_without_is_of_the_first() -> None:
    learner, state = watched(0), watched().state_dict()
    assert state[KEY] == 1
    old = {name: value for name, value in state.items() if name != KEY}
    old["guard"] = [part and {name: value for name, value in part.items() if name != KEY} for part in state["guard"]]
    learner.load_state_dict(old)
    assert learner.steps == 3
    before = copy.deepcopy(learner.state_dict())
    with pytest.raises(CheckpointError, match=f"a learner of format {NEWER}, this taster reads up to 1"):
        learner.load_state_dict({**watched(5).state_dict(), KEY: NEWER})
    assert learner.steps == before["steps"] == 3


def test_a_guards_state_says_its_version() -> None:
    learner = watched()
    states = learner.guard.state_dict()
    assert [part and part[KEY] for part in states] == [1 if part else None for part in states]
    assert None in states
    for at, part in enumerate(states):
        if part is not None:
            newer = [{**kept, KEY: NEWER} if at == i and kept else kept for i, kept in enumerate(states)]
            with pytest.raises(CheckpointError, match=f"a guard's stage of format {NEWER}"):
                marked_guard().load_state_dict(newer)
    for odd in (3, None, {}, [3] * len(states)):
        with pytest.raises(CheckpointError):
            marked_guard().load_state_dict(odd)  # type: ignore[arg-type]


def holes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all keys of all dictionaries inside one another, but for names of tensors and of numbers."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, inner in parts:
        if isinstance(value, dict):
            yield (*path, key)
        yield from holes(inner, (*path, key))


def without(value: Any, path: tuple[Any, ...]) -> Any:
    key, *rest = path
    if isinstance(value, dict):
        if rest:
            return {k: without(v, tuple(rest)) if k == key else v for k, v in value.items()}
        return {k: v for k, v in value.items() if k != key}
    return type(value)(without(v, tuple(rest)) if i == key else v for i, v in enumerate(value))


def test_a_state_that_lacks_any_part_is_loaded_or_refused_in_words() -> None:
    """Whatever is missing, the error is ours and names it, and the learner is as it was."""
    state, learner = watched().state_dict(), watched(1)
    refused = {path: said for path in holes(state) if (said := refusal(learner, without(state, path)))}
    assert len(refused) > 50
    for path, said in refused.items():
        assert "KeyError" not in said, path
        assert len(said.split()) > 4, path


def refusal(learner: Learner, state: Any) -> str | None:
    """What was said of a state that was not loaded; whether or not, the learner has its own state afterwards."""
    own, found = copy.deepcopy(learner.state_dict()), None
    try:
        learner.load_state_dict(state)
    except CheckpointError as error:
        found = str(error)
    if found is None:
        learner.load_state_dict(own)
    assert digest(learner.state_dict()) == digest(own), found
    return found


def test_a_quarantines_entries_say_their_version(tmp_path: Path) -> None:
    learner = tiny_learner(
        guard=Guard(gates=[lambda change: reject("no")]),
        on_refusal=Quarantine(tmp_path),
    )
    learner.step(tiny_batch())
    index = tmp_path / "quarantine.jsonl"
    (entry,) = Quarantine(tmp_path).entries()
    assert entry[KEY] == 1
    index.write_text(json.dumps({name: value for name, value in entry.items() if name != KEY}) + "\n")
    assert len(Quarantine(tmp_path).entries()) == 1
    index.write_text(json.dumps({**entry, KEY: NEWER}) + "\n")
    with pytest.raises(QuarantineError, match=rf"quarantine\.jsonl: got .* of format {NEWER}"):
        Quarantine(tmp_path).entries()
    learner.step(tiny_batch())  # what cannot be kept is logged, and training goes on
    assert json.loads(index.read_text())[KEY] == NEWER
