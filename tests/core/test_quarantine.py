"""Refused batches: kept within bounds, shown, let go; and the alarms that go with them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import full_state, same_state, tiny_batch, tiny_learner
from typer.testing import CliRunner

from taster import Batch, Guard, Quarantine, StepRecord, reject, save_state
from taster.cli import app
from taster.core.guard import CandidateUpdate
from taster.core.verdict import COMMIT, Verdict
from taster.errors import QuarantineError
from taster.federated import ClientReply, Server
from taster.report.pictures import contact_sheet


def odd_ones(change: CandidateUpdate) -> Verdict:
    """Refuses every other step."""
    return reject("odd") if change.step % 2 else COMMIT


def filled(folder: Path, steps: int = 6, **options: Any) -> tuple[Quarantine, list[Batch]]:
    """With the batches of steps 1, 3, 5, ..."""
    quarantine = Quarantine(folder, **options)
    learner = tiny_learner(guard=Guard(gates=[odd_ones]), on_refusal=quarantine)
    batches = [tiny_batch(seed=i) for i in range(steps)]
    for batch in batches:
        learner.step(batch)
    return quarantine, batches[1::2]


def test_refused_batches_are_kept_and_come_back(tmp_path: Path) -> None:
    quarantine, refused = filled(tmp_path / "q")
    entries = Quarantine(tmp_path / "q").entries()
    assert [(e["id"], e["step"], e["stage"], e["reason"], e["samples"], e["action"]) for e in entries] == [
        (f"{i:06d}", step, "odd_ones", "odd", 8, "REJECT") for i, step in ((1, 1), (2, 3), (3, 5))
    ]
    for entry, batch in zip(entries, refused, strict=True):
        kept = quarantine.batch(entry["id"])
        assert torch.equal(kept.x, batch.x)
        assert torch.equal(kept.y, batch.y)


def test_it_is_bounded_and_goes_on_counting(tmp_path: Path) -> None:
    filled(tmp_path, steps=10, capacity=2)
    filled(tmp_path, steps=2, capacity=2)
    assert [e["id"] for e in Quarantine(tmp_path).entries()] == ["000005", "000006"]
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["000005.safetensors", "000006.safetensors"]


def test_batches_are_let_go_and_deleted(tmp_path: Path) -> None:
    quarantine, refused = filled(tmp_path)
    with pytest.raises(QuarantineError, match="no 000009; there are 000001, 000002, 000003"):
        quarantine.release(["000001", "000009"])
    quarantine.release(["000001", "000003"])
    quarantine.discard(["000002"])
    assert quarantine.entries() == []
    assert [torch.equal(found.x, batch.x) for found, batch in zip(quarantine.released(), refused[::2], strict=True)]
    assert list(quarantine.released()) == []
    quarantine(StepRecord(step=7, samples=8, loss=None, verdict=reject("x")), tiny_batch())
    assert quarantine.entries()[0]["samples"] == 8


def test_a_released_batch_is_learned_without_being_asked_again() -> None:
    class Watching:
        seen = 0

        def __call__(self, change: CandidateUpdate) -> Verdict:
            return reject("never")

        def observe(self, record: StepRecord, view: object) -> None:
            self.seen += 1

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

    gate = Watching()
    guarded, plain = tiny_learner(guard=Guard(gates=[gate])), tiny_learner()
    assert not guarded.step(tiny_batch()).verdict.committed
    assert guarded.step(tiny_batch(), trusted=True).verdict.committed
    plain.step(tiny_batch())
    assert same_state(full_state(guarded), full_state(plain))
    assert gate.seen == 2
    broken = tiny_batch()
    broken.x[0] = float("nan")
    assert not guarded.step(broken, trusted=True).verdict.committed


def test_alarms_are_logged_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[int, int]] = []
    learner = tiny_learner(guard=Guard(gates=[odd_ones]), on_refusal=lambda r, b: told.append((r.step, len(b))))
    with caplog.at_level(logging.INFO, "taster.core.learner"):
        for i in range(4):
            learner.step(tiny_batch(seed=i))
    assert told == [(1, 8), (3, 8)]
    first, second = caplog.records
    assert (first.levelname, second.levelname) == ("WARNING", "INFO")
    assert first.getMessage().startswith("step 1: rejected by odd_ones: odd; further refusals of this cause")
    assert second.getMessage() == "step 3: rejected by odd_ones: odd"
    assert learner.counters == {
        "steps": 4, "committed": 2, "rejected": 2, "rewound": 0, "samples": 32, "dropped": 16, "corrected": 0,
        "salvaged": 0,
    }  # fmt: skip


def test_a_folder_that_cannot_be_written_stops_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    quarantine, _ = filled(tmp_path / "file" / "q")
    assert "could not be kept" in caplog.text
    assert quarantine.entries() == []


def test_what_is_damaged_is_told(tmp_path: Path) -> None:
    quarantine, _ = filled(tmp_path)
    (tmp_path / "000001.safetensors").write_bytes(b"x")
    with pytest.raises(QuarantineError, match="cannot be read as a batch"):
        quarantine.batch("000001")
    (tmp_path / "quarantine.jsonl").write_text("[1]\n")
    with pytest.raises(QuarantineError, match="damaged"):
        quarantine.entries()
    with pytest.raises(QuarantineError, match="capacity 0"):
        Quarantine(tmp_path, capacity=0)


def test_the_command(tmp_path: Path) -> None:
    filled(tmp_path / "q")
    run = CliRunner()
    result = run.invoke(app, ["quarantine", str(tmp_path / "q"), "--sheet", str(tmp_path / "sheet.png")])
    assert result.exit_code == 0, result.output
    assert "3 in quarantine" in result.stdout
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    result = run.invoke(
        app, ["quarantine", str(tmp_path / "q"), "--release", "000001", "--discard", "000002", "--json"]
    )
    assert [entry["id"] for entry in json.loads(result.stdout)] == ["000003"]
    assert len(list(Quarantine(tmp_path / "q").released())) == 1
    with pytest.raises(QuarantineError, match="no such folder"):
        run.invoke(app, ["quarantine", str(tmp_path / "none")], catch_exceptions=False)


def test_only_images_are_shown() -> None:
    with pytest.raises(QuarantineError, match="wanted batches of images"):
        contact_sheet([("a", torch.zeros(2, 3), torch.zeros(2))])
    with pytest.raises(QuarantineError, match="wanted batches of images"):
        contact_sheet([])


def test_a_federation_raises_the_same_alarms_and_keeps_no_rounds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner = tiny_learner(guard=Guard(gates=[odd_ones]), on_refusal=Quarantine(tmp_path / "q"))
    server = Server(learner)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            server.receive(
                [ClientReply("a", torch.zeros(server.size)), ClientReply("b", torch.ones(server.size))], ["a", "b"]
            )
    alarm, kept = (record.getMessage() for record in caplog.records)
    assert alarm.startswith("step 1: rejected by odd_ones: odd; further refusals of this cause")
    assert kept == "step 1: 2 clients' updates are not kept: a quarantine is for samples"
    assert learner.counters["samples"] == 4
    assert learner.counters["rejected"] == 1
    assert not Quarantine(tmp_path / "q").entries()


@pytest.mark.parametrize(
    "index",
    ["{}", "[]", "3", "null", "{", '{"id": "../../etc/passwd"}', '{"id": 7}', '{"id": "٣"}', "[" * 100_000, "\x00"],
)
def test_a_damaged_index_is_told_and_stops_no_training(
    index: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quarantine = Quarantine(tmp_path)
    (tmp_path / "quarantine.jsonl").write_text(index)
    with pytest.raises(QuarantineError, match="damaged"):
        quarantine.entries()
    learner = tiny_learner(guard=Guard(gates=[odd_ones]), on_refusal=quarantine)
    for i in range(4):
        learner.step(tiny_batch(seed=i))
    assert learner.steps == 4
    assert "could not be kept" in caplog.text
    assert isinstance(CliRunner().invoke(app, ["quarantine", str(tmp_path)]).exception, QuarantineError)


@pytest.mark.parametrize("state", [3, [], {}, {"x": 1, "y": 2, "loss_weight": 1.0}, {"x": torch.ones(2, 3)}])
def test_a_file_that_is_no_batch_is_told(state: Any, tmp_path: Path) -> None:
    quarantine, _ = filled(tmp_path)
    save_state(tmp_path / "000001.safetensors", state)
    with pytest.raises(QuarantineError, match="cannot be read as a batch"):
        quarantine.batch("000001")
