"""How an audit cuts samples into roles."""

from __future__ import annotations

from taster.errors import DataError
from taster.experiments.audit.findings import Findings
from taster.experiments.audit.request import Scene

_FEWEST: dict[Scene, int] = {"online": 300, "offline": 150}
_TEST = 1000


def batch_size(findings: Findings) -> int:
    """Samples of a batch: a small part of what there is."""
    return 50 if findings.train >= 1000 else 20


def cut(findings: Findings, scene: Scene, *, trained: bool) -> dict[str, int]:
    """The number of samples of each role; what is left over goes to the stream, or to the training set.

    Args:
        findings: of the data.
        scene: online or offline.
        trained: whether the model has been trained before: the burn-in's samples only serve to find a learning rate.

    Raises:
        DataError: for too few samples to fill the roles.
    """
    count, fewest = findings.train, _FEWEST[scene]
    if count < fewest:
        roles = "burn-in, stream, trigger, probe, monitor, attacker and test" if scene == "online" else "training, ..."
        raise DataError(
            f"--data: got {count} samples, wanted at least {fewest}: no sample may have two roles ({roles})"
        )

    def share(fraction: float, most: int) -> int:
        return min(round(fraction * count), most)

    sizes = {"test": min(findings.test, _TEST) if findings.test is not None else share(0.18, _TEST)}
    if scene == "offline":
        return {**sizes, "validation": share(0.12, 400), "probe": share(0.12, 400)}
    return {
        **sizes,
        "burn_in": share(0.2, 2000) if trained else share(0.35, 10_000),
        "trigger": batch_size(findings),
        "validation": share(0.12, 400),
        "monitor": share(0.1, 300),
        "probe": share(0.12, 500),
    }
