"""Which toolkits are there, and of what version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

TOOLKITS = {
    "byzfl": "aggregation",
    "flwr": "aggregation",
    "opacus": "gradients of single samples",
    "adversarial-robustness-toolbox": "attacks and screens of training sets",
}
"""What each is compared in, by the name that pip knows."""

BESIDE = ("taster", "torch", "numpy", "scipy", "scikit-learn")


def version_of(name: str) -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Of all that is compared, and of what it computes with."""
    return {name: version_of(name) for name in (*TOOLKITS, *BESIDE)}
