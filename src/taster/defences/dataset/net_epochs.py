"""Training of a net epoch by epoch, in a defence's own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from taster.core.backward import online_gradient
from taster.core.batch import Batch
from taster.core.epochs import Epochs
from taster.core.fitting import NetFit
from taster.core.step import GradientFn
from taster.core.step_record import StepRecord
from taster.core.view import View
from taster.defences.dataset_defence import TrainingRun
from taster.errors import DefenceError
from taster.utils.seeds import seeded


def net_fit(run: TrainingRun, name: str, wanted: str = "one of a net") -> NetFit:
    """The training of a run, where it is one of a net.

    Args:
        run: what a defence works with.
        name: of the defence, for messages.
        wanted: what the message says of that.

    Raises:
        DefenceError: for any other training.
    """
    if not isinstance(run.fit, NetFit):
        raise DefenceError(f"{name}: got a training whose epochs cannot be made one by one, wanted {wanted}")
    return run.fit


def check_steps(
    records: Sequence[StepRecord], name: str, *, when: str = "", advice: str = "a smaller learning rate"
) -> None:
    """Raises DefenceError if one of the steps was refused, with the first of the reasons.

    Args:
        records: of the steps.
        name: of the defence, for messages.
        when: the steps were made.
        advice: what to try.
    """
    for record in records:
        if not record.verdict.committed:
            raise DefenceError(f"{name}: a step came to nothing{when}: {record.verdict.reason}; try {advice}")


def train_by_epochs(
    fit: NetFit,
    samples: Callable[[], Batch],
    order: Epochs,
    name: str,
    *,
    seed: int,
    gradient: GradientFn[Batch] = online_gradient,
    quality: Callable[[View], float] | None = None,
) -> View:
    """Trains a net for all its epochs.

    Args:
        fit: the training.
        samples: makes the samples of an epoch; called before each.
        order: theirs.
        name: of the defence, for messages.
        seed: of what the net draws as it trains, by dropout say; torch's own generator is left as it was.
        gradient: computes that of a step.
        quality: of a net after an epoch. None: the last epoch's net is wanted.

    Returns:
        a view of the net, in eval mode, after the last epoch, or after the first one of the highest quality.

    Raises:
        DefenceError: if a step comes to no finite loss or gradient.
    """
    best: View | None = None
    highest = float("-inf")
    learner = fit.learner()
    with seeded(seed, next(learner.model.parameters()).device):
        for done in range(fit.settings.epochs):
            records = fit.train_epoch(learner, samples(), order, done, gradient=gradient)
            check_steps(records, name, when=f" in epoch {done + 1}")
            view = learner.view()
            if quality is not None and (found := quality(view)) > highest:
                best, highest = _kept(view), found
    learner.model.eval()
    return best or learner.view()


def _kept(view: View) -> View:
    """The view, which stays what it is when the learner moves on."""
    view.params, view.buffers  # noqa: B018  # a view whose copies are made is read from these
    return view
