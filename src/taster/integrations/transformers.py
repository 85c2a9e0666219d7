"""A guard around the Trainer of transformers (extra `transformers`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from taster.core.checkpoint import load_state, save_state
from taster.core.functional_model import in_view
from taster.core.guard import Guard, check_is_guard
from taster.core.guarded import Guarded
from taster.core.guarded_step import GuardedStep
from taster.core.losses import AnyLoss
from taster.core.nested import own_loss
from taster.core.objective import ForwardFn
from taster.core.ranks import ProcessGroup
from taster.core.snapshots import SnapshotBuffer
from taster.core.state import Companion
from taster.core.step_record import StepRecord
from taster.errors import CheckpointError, GuardError, TransactionError

_log = logging.getLogger("taster.integrations.transformers")

FILE = "taster_guard.safetensors"
"""The guard's state in a checkpoint of the Trainer."""

_TRAINER_STATE = "trainer_state.json"


class GuardCallback(TrainerCallback):
    """Every update of a `transformers.Trainer` passes a guard.

        trainer = Trainer(model, args, train_dataset=dataset, callbacks=[GuardCallback(taster.guard(probe))])

    The Trainers of TRL are Trainers and take it as well. All that makes an update is judged as one: the micro batches
    of gradient accumulation, mixed precision, gradient clipping. The transaction opens before the first forward pass
    (`on_step_begin`), and gates judge right after the optimizer's step (`on_optimizer_step`). A refused update is
    undone, weights and optimizer bit for bit. It counts as a step of the Trainer: the learning rate's schedule, which
    is part of how one has chosen to train and not of what was learned, goes on. So do the loss and the gradient norm
    that the Trainer logs; its log and its `state.log_history` also tell how many updates were refused so far.

    Whatever the Trainer saves has been judged. Beside it, in each checkpoint, `taster_guard.safetensors` holds the
    guard's state, its snapshots and counts; `trainer.train(resume_from_checkpoint=...)` takes them up.

    An exception, an interrupt say, can leave an update that nobody has judged: `roll_back` undoes it, and so does the
    next training. What a guard would try again with a part of the batch (`retry_low_score_half`) is refused as a whole.

    Args:
        guard: the stages that each update passes: transforms and gates. There can be no screens: the Trainer draws its
            batches itself.
        loss: for stages that compute losses of their own, as in `taster.Learner`; None takes the model's own, which
            batches with labels give.
        forward: as in `taster.Learner`, for stages that run the model.
        snapshots, also: as in `taster.Guarded`.
        on_refusal: called with the record of a refused update and what the model was called with in it: the keyword
            arguments of each forward pass (None for a model compiled by the Trainer).
        checkpoint: the folder of the checkpoint that is resumed, where it does not lie in the Trainer's `output_dir`.

    Attributes:
        records: of the last training, one for each update. Their loss is the one that the model itself has computed,
            added up as the Trainer does; None where it is computed outside of the model (label smoothing, a loss
            function of one's own), or the model was compiled by the Trainer.

    Raises (when training begins):
        GuardError: for a guard with screens.
        ModelError: for what no guard can undo: weights sharded by FSDP, engines such as DeepSpeed.
        CheckpointError: when training is resumed and the checkpoint's guard belongs to another, or cannot be found.
    """

    def __init__(
        self,
        guard: Guard,
        loss: AnyLoss | None = None,
        *,
        forward: ForwardFn | None = None,
        snapshots: SnapshotBuffer | None = None,
        also: Sequence[Companion] = (),
        on_refusal: Callable[[StepRecord, list[dict[str, Any]] | None], None] | None = None,
        checkpoint: Path | str | None = None,
    ) -> None:
        check_is_guard(guard)
        self.guard = guard
        self.records: list[StepRecord] = []
        self._loss = loss
        self._options: dict[str, Any] = {"forward": forward, "snapshots": snapshots, "also": also}
        self._on_refusal = on_refusal
        self._checkpoint = checkpoint
        self._guarded: Guarded | None = None
        self._step: GuardedStep | None = None
        self._passes: _ForwardPasses | None = None

    @property
    def guarded(self) -> Guarded:
        """What it guards; its counters say what became of the updates.

        Raises:
            GuardError: before training has begun.
        """
        if self._guarded is None:
            raise GuardError("got no guarded model yet, wanted one: it is made when training begins")
        return self._guarded

    def roll_back(self) -> None:
        """Undoes an update that an exception has left open: for code that catches what `trainer.train()` raises, a
        KeyboardInterrupt say, and goes on with the model. Another `train()` does it by itself."""
        step, self._step = self._step, None
        if step is not None:
            error = TransactionError("the update was left before its end")
            step.__exit__(TransactionError, error, None)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Puts the guard around model and optimizer, and takes up a checkpoint's guard."""
        self._let_go()
        if self.guard.screens:
            raise GuardError(
                "GuardCallback: got a guard with screens, which would have to see the batches before the Trainer draws "
                "them; wanted transforms and gates alone, or taster.Guarded in a loop of your own: guarded.step(batch)"
            )
        _refuse_engines(optimizer)
        assert model is not None  # the Trainer hands both over
        assert optimizer is not None
        guarded = Guarded(
            model,
            optimizer,
            self.guard,
            loss=self._loss,
            scaler=getattr(optimizer, "scaler", None),
            on_refusal=self._refused,
            process_group=_group(args),
            **self._options,
        )
        if self._guarded is not None:  # a further training with the same guard goes on counting
            guarded.state.progress = self._guarded.state.progress
        if state.global_step:
            self._take_up(guarded, args, state)
        self._guarded = guarded
        self.records = []
        if not args.torch_compile:  # a hook would be compiled too
            self._passes = _ForwardPasses(model, scale=args.world_size if args.average_tokens_across_devices else 1)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Opens the transaction."""
        self.roll_back()
        if self._passes is not None:
            self._passes.clear()
        step = self.guarded.step()
        step.__enter__()
        self._step = step

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Judges the update. Nothing but the optimizer has run since the weights were judged last."""
        step, self._step = self._step, None
        if step is None:
            return
        if self._passes is not None:
            step.loss = self._passes.loss()
        step.__exit__(None, None, None)
        if step.record is not None:
            self.records.append(step.record)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Likewise, in a loop of a Trainer's own that has no `on_optimizer_step`."""
        self.on_optimizer_step(args, state, control, **kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Undoes what is left of an update that another callback has broken off between micro batches."""
        self.roll_back()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Lets the model go."""
        self._let_go()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds the number of refused updates to what is logged of training."""
        if self._guarded is None or logs is None or "loss" not in logs:
            return
        counters = self._guarded.counters
        logs["refused"] = state.log_history[-1]["refused"] = counters["rejected"] + counters["rewound"]

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Writes the guard's state into the checkpoint, unless it is one of the model alone."""
        if self._guarded is None or not args.should_save or args.save_only_model:
            return
        folder = _own_folder(args, state)
        if folder.is_dir():  # those of a search for hyperparameters lie elsewhere, and are not resumed
            save_state(folder / FILE, self._guarded.guard_state_dict())
        elif not state.is_hyper_param_search:
            raise CheckpointError(f"got no checkpoint at {folder}, wanted the one that the Trainer has just saved")

    def _take_up(self, guarded: Guarded, args: TrainingArguments, state: TrainerState) -> None:
        places = [self._checkpoint, args.resume_from_checkpoint, _own_folder(args, state)]
        for place in places:
            if isinstance(place, (str, Path)) and _is_checkpoint_of(Path(place), state):
                break
        else:
            raise CheckpointError(
                f"got a training resumed at step {state.global_step} and no checkpoint of it in {args.output_dir}, "
                "wanted the folder that is resumed: GuardCallback(guard, checkpoint=...)"
            )
        path = Path(place) / FILE
        if path.exists():
            guarded.load_guard_state_dict(load_state(path))
        else:
            _log.warning("%s has no %s: it was saved without a guard, which begins anew", place, FILE)

    def _refused(self, record: StepRecord, _: Any) -> None:
        if self._on_refusal is not None:
            self._on_refusal(record, None if self._passes is None else list(self._passes.inputs))

    def _let_go(self) -> None:
        self.roll_back()
        if self._passes is not None:
            self._passes.remove()
            self._passes = None


class _ForwardPasses:
    """What a model was called with in one update, and the losses that it computed.

    Args:
        model: the model, on which a hook stays until `remove`.
        scale: factor that the Trainer puts on a loss that it has handed the number of items to.
    """

    def __init__(self, model: nn.Module, *, scale: int) -> None:
        self.inputs: list[dict[str, Any]] = []
        self._losses: list[Tensor] = []
        self._parts: list[Tensor] = []
        inputs, losses, parts = self.inputs, self._losses, self._parts

        # A function, and no method: views copy the model with its hooks, and this object with a method of it.
        def note(module: nn.Module, _: Any, given: dict[str, Any], output: Any) -> None:
            if in_view() or not module.training or not torch.is_grad_enabled():
                return
            counted = given.get("num_items_in_batch") is not None
            inputs.append({name: value for name, value in given.items() if name != "num_items_in_batch"})
            loss = own_loss(output)
            if loss is not None:
                parts.append(loss.detach() * scale) if counted else losses.append(loss.detach())

        self._hook = model.register_forward_hook(note, with_kwargs=True)

    def loss(self) -> float | None:
        """The update's loss, if the model has computed it: the sum of parts, where each has been divided by the number
        of items in all of them, else the mean over micro batches."""
        if self._parts:
            return sum(float(part) for part in self._parts)
        return sum(float(loss) for loss in self._losses) / len(self._losses) if self._losses else None

    def clear(self) -> None:
        """Forgets the update."""
        for entries in (self.inputs, self._losses, self._parts):
            entries.clear()

    def remove(self) -> None:
        """Takes the hook away."""
        self.clear()
        self._hook.remove()


def _refuse_engines(optimizer: Any) -> None:
    """Raises GuardError for what the plain weights cannot be seen behind."""
    found = getattr(getattr(optimizer, "accelerator_state", None), "distributed_type", None)
    if str(found).rsplit(".", 1)[-1] in ("DEEPSPEED", "FSDP", "MEGATRON_LM"):
        raise GuardError(
            f"GuardCallback: got {found}, which splits the model over processes or keeps weights of its own, wanted "
            "DistributedDataParallel (torchrun) or one process"
        )


def _group(args: TrainingArguments) -> ProcessGroup | Literal["auto"] | None:
    """The processes that train together: the Trainer shows callbacks the model without `DistributedDataParallel`."""
    return torch.distributed.group.WORLD if args.world_size > 1 else None


def _own_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Where the Trainer has its checkpoint of this step."""
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"


def _is_checkpoint_of(folder: Path, state: TrainerState) -> bool:
    """Whether the Trainer's state was read from this folder."""
    path = folder / _TRAINER_STATE
    if not path.is_file():
        return False
    saved = TrainerState.load_from_json(str(path))
    names = ("global_step", "epoch", "log_history", "total_flos", "best_metric")
    # As text, in which a metric that is NaN equals itself.
    return json.dumps([getattr(saved, name) for name in names]) == json.dumps([getattr(state, name) for name in names])
