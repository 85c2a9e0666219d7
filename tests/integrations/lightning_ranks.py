"""Runs of two processes, started by `test_lightning_ranks`: what each of them ends with goes into a file of its own."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from tests.conftest import tiny_batch
from tests.integrations.lightning_modules import Gan, Module, loader, whole

from taster import Batch, CandidateUpdate, Guard, ScreenedBatch, Verdict, reject
from taster.core.verdict import COMMIT
from taster.defences.gates.probe_gate import probe_gate
from taster.integrations.lightning import GuardCallback

POISONED = (2, 3)


def poisoned(x: torch.Tensor) -> bool:
    return bool((x > 1).any())


def gate(change: CandidateUpdate) -> Verdict:
    """Speaks up in the process that had the poison alone."""
    batch = change.batch
    return reject("too bright") if isinstance(batch, Batch) and poisoned(batch.x) else COMMIT


def screen(admitted: ScreenedBatch[Batch], view: Any) -> ScreenedBatch[Batch]:
    bright = poisoned(admitted.batch.x)
    return admitted.drop(torch.full((len(admitted.batch),), bright), "too bright")


def data(rank: int, *, shorter: bool) -> Any:
    batches = [tiny_batch(4, seed=10 * rank + i) for i in range(6)]
    if rank == 1:
        for i in POISONED:
            batches[i].x[0] = 9.0
    return loader([batch for i, batch in enumerate(batches) if not (shorter and i in POISONED)], 4)


class Keeps(Callback):
    def __init__(self, path: Path, guard: GuardCallback | None) -> None:
        self.path, self.guard = path, guard

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        records = [] if self.guard is None else self.guard.records
        told = [(r.verdict.committed, r.verdict.reason, r.samples) for r in records]
        torch.save({"told": told, "state": whole(pl_module, trainer)}, f"{self.path}.{trainer.global_rank}")


def run(path: Path, kind: Any, guard: Guard | None, **options: Any) -> None:
    class Own(kind):  # type: ignore[misc]
        def train_dataloader(self) -> Any:
            return data(self.trainer.global_rank, shorter=guard is None)

    callback = None if guard is None else GuardCallback(guard)
    strategy = "ddp_fork_find_unused_parameters_true" if kind is Gan else "ddp_fork"
    Trainer(
        max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        accelerator="cpu", devices=2, strategy=strategy, use_distributed_sampler=False,
        callbacks=[Keeps(path, callback), *([] if callback is None else [callback])], **options,
    ).fit(Own())  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    out = Path(sys.argv[1])
    run(out / "plain", Module, None)
    run(out / "gate", Module, Guard(gates=[gate]))
    run(out / "screen", Module, Guard(screens=[screen]))
    run(out / "plain2", Module, None, accumulate_grad_batches=2)
    run(out / "screen2", Module, Guard(screens=[screen]), accumulate_grad_batches=2)
    run(out / "plain_gan", Gan, None)
    run(out / "gate_gan", Gan, Guard(gates=[gate]))
    run(out / "probe", Module, probe_gate(tiny_batch(60, seed=99), tolerance=100.0, class_tolerance=None))
