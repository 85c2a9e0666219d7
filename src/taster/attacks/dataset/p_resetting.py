"""p-resetting of a training set: some honest samples are drawn anew where that is likely to do harm."""

from __future__ import annotations

from taster.attacks.dataset_attack import DatasetAttack, DatasetKnowledge, Poison
from taster.attacks.tampering import Tampering, TamperingSettings, reset_probability
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
def p_resetting(*, tampering: TamperingSettings = TamperingSettings()) -> DatasetAttack:
    """Replaces samples by a random own one with a right label where the sample that is there does less harm.

        "gain"         if f̂(d_1 … d_i) is under its mean with some draws in the place of d_i
        "rejection"    with probability (1 − f̂(d_1 … d_i)) / (1 + p f̂(d_1 … d_{i−1}))
        "loss"         if a surrogate's loss on d_i is under the median of its class among own samples
        "random"       with probability 1/2: the control

    The attacker is weaker than that of `p_tampering`: he sees an honest sample and takes it away, and what comes in its
    place is nothing that he chooses. Estimates, the halves of the own samples and the theorem are those of
    `p_tampering`.

    Args:
        tampering: see `taster.attacks.TamperingSettings`.

    Raises:
        AttackError: see `p_tampering`.

    Source: Mahloujifar, Diochnos and Mahmoody 2018 ("Learning under p-tampering attacks"), whose choice is by rejection
        sampling; the other choices are taster's own.
    """
    settings, budget = tampering, tampering.budget

    def poison(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        state = Tampering(settings, knowledge, len(clean))
        found = Batch(clean.x.clone(), clean.y.clone())
        for place in budget.draw(len(clean), knowledge.generator).tolist():
            if _resets(state, found, place):
                at = int(state.draw(1, int(found.y[place]))[0])
                found.x[place], found.y[place] = state.pool.x[at].to(found.x), state.pool.y[at].to(found.y)
        return Poison(found)

    return DatasetAttack(budget, poison, target=settings.wanted if settings.target is not None else None)


def _resets(state: Tampering, found: Batch, place: int) -> bool:
    label, choice = int(found.y[place]), state.settings.choice
    honest = found.select(slice(place, place + 1))
    prefix = found.select(slice(0, place)) if place else None
    if choice == "loss":
        drawn = state.draw(len(state.pool), label)
        return bool(state.losses(honest)[0] < state.pool_losses[drawn].median())
    if choice == "gain":
        drawn = state.draw(state.settings.draws, label)
        others = [state.pool.select(slice(i, i + 1)) for i in drawn.tolist()]
        value, *rest = state.expected_errors(prefix, [honest, *others])
        return value < sum(rest) / len(rest)
    if choice == "rejection":
        before, value = state.expected_errors(prefix, [None, honest])
        return state.coin(reset_probability(value, before, state.settings.poison_fraction))
    return state.coin(0.5)
