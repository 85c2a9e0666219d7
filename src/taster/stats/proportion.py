"""A probability estimated by counting."""

from __future__ import annotations

from dataclasses import dataclass

from taster.errors import SettingError


@dataclass(frozen=True)
class Proportion:
    """Successes among trials.

    Attributes:
        successes: how many trials succeeded.
        trials: how many there were, at least 1.

    Raises:
        SettingError: for no trial, and more successes than trials.
    """

    successes: int
    trials: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.trials or self.trials < 1:
            raise SettingError(
                f"got {self.successes} successes of {self.trials} trials, wanted 0 to as many as there are trials, and "
                "at least one trial"
            )

    @property
    def share(self) -> float:
        """The share that succeeded, 0 to 1."""
        return self.successes / self.trials

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The exact interval of the probability of success, if trials are independent.

        Args:
            confidence: over 0 and below 1.

        Raises:
            SettingError: for a confidence out of range.

        Source: Clopper and Pearson 1934.
        """
        from scipy.stats import binomtest  # slow to import, and only needed here

        if not 0 < confidence < 1:
            raise SettingError(f"confidence: got {confidence}, wanted over 0 and below 1")
        found = binomtest(self.successes, self.trials).proportion_ci(confidence, method="exact")
        return float(found.low), float(found.high)

    def text(self) -> str:
        """The share with its interval of 95 % confidence, in %: "80 (44 to 97)"."""
        low, high = self.interval()
        return f"{100 * self.share:.0f} ({100 * low:.0f} to {100 * high:.0f})"
