"""p-tampering of a training set: some samples are others than they would be, all with a right label."""

from __future__ import annotations

from taster.attacks.dataset_attack import DatasetAttack, DatasetKnowledge, Poison
from taster.attacks.tampering import Tampering, TamperingSettings, resampling_probability
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "p-tampering",
    "before training",
    note="With `target` it is targeted; each sample is replaced by another one with a right label.",
)
@validate_settings
def p_tampering(*, tampering: TamperingSettings = TamperingSettings()) -> DatasetAttack:
    """Replaces samples by own ones with a right label, chosen to raise the error.

        "gain"         of some draws d the one with the highest f̂(d_1 … d_{i−1}, d)
        "rejection"    d is drawn until a coin of probability 1 − (1 − f̂(… d)) / (2 − p − (1 − p) f̂(…)) accepts it
        "loss"         of some draws the one with the highest loss by a surrogate
        "random"       the first draw: the control

    Samples come one after the other: a choice knows those before it and no later ones, whose place is taken by own
    samples when f̂ is estimated. Each estimate trains `completions` times, and there are as many for each sample as
    draws. What is drawn is drawn from half of the own samples, with repeats between choices; the error is measured on
    the other half.

    The error on one sample, the target, can be raised by as much as it varies between training sets. Against the error
    as a whole the paper shows that learning stays possible.

    Args:
        tampering: see `taster.attacks.TamperingSettings`.

    Raises:
        AttackError: for a target without its class, or with the choice "loss". When called: for a target that there is
            not, or that is of its class already, and own samples of too few classes.

    Source: Mahloujifar, Diochnos and Mahmoody 2018 ("Learning under p-tampering attacks"), whose choice is by rejection
        sampling; the other choices are taster's own.
    """
    settings, budget = tampering, tampering.budget

    def poison(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        state = Tampering(settings, knowledge, len(clean))
        found = Batch(clean.x.clone(), clean.y.clone())
        for place in budget.draw(len(clean), knowledge.generator).tolist():
            chosen = state.pool.select(slice(*_chosen(state, found, place)))
            found.x[place], found.y[place] = chosen.x[0].to(found.x), chosen.y[0].to(found.y)
        return Poison(found)

    return DatasetAttack(budget, poison, target=settings.wanted if settings.target is not None else None)


def _chosen(state: Tampering, found: Batch, place: int) -> tuple[int, int]:
    """Where in the pool the sample lies that takes this place: its position, and the next."""
    drawn = state.draw(state.settings.draws, int(found.y[place]))
    prefix = found.select(slice(0, place)) if place else None
    at = int(drawn[0])
    if state.settings.choice == "loss":
        at = int(drawn[state.pool_losses[drawn].argmax()])
    elif state.settings.choice == "gain":
        errors = state.expected_errors(prefix, [state.pool.select(slice(i, i + 1)) for i in drawn.tolist()])
        at = int(drawn[errors.index(max(errors))])
    elif state.settings.choice == "rejection":
        p = state.settings.poison_fraction
        for at in drawn.tolist():
            before, value = state.expected_errors(prefix, [None, state.pool.select(slice(at, at + 1))])
            if not state.coin(resampling_probability(value, before, p)):
                break
    return at, at + 1
