"""How much honest updates swing: a robust centre and scale of the last changes that were kept."""

from __future__ import annotations

import warnings
from functools import cached_property

import numpy as np

WINDOW = 60
"""Changes that are remembered."""

_LATEST = 20
"""Of those, the ones that tell whether changes have begun to grow."""

ENOUGH = 8
"""Changes from which on the limit is theirs."""

_QUANTILE = 0.9
_NORMAL = 1.6449
"""The 90 % quantile of a standard normal variable's absolute value."""


class Swing:
    """The last changes of a quantity, in several groups of samples, drops positive; and what follows for the next one.

    The scale is taken from the 90 % quantile of the distances from the median, in place of the usual 50 %: the changes
    of networks that learn with momentum have heavy tails, and a scale of the middle half makes outliers of many of
    them. It is that of all changes or of the latest, whichever is larger. A change that is measured on a part of the
    samples is wrong by its standard error, and changes measured with an error swing more than they are; the squares of
    scale and error subtract. Where most changes are none, as of a model that is right nearly always and of few samples,
    the scale is of the mean square where that is less.

    Args:
        changes: [t, groups, 2] in float64, the mean drop and its standard error, oldest first; an infinite error
            where nothing is known.

    Source: taster's own; the median and the distances from it after Hampel 1974.
    """

    def __init__(self, changes: np.ndarray) -> None:
        self.changes = changes

    @classmethod
    def empty(cls, groups: int) -> Swing:
        """Before the first change."""
        return cls(np.empty((0, groups, 2)))

    def with_change(self, drops: np.ndarray, errors: np.ndarray) -> Swing:
        """With one more change, [groups] each, and without the oldest beyond the window."""
        pair = np.stack([drops, errors], 1)
        pair[~np.isfinite(pair).all(1)] = 0.0, np.inf
        return Swing(np.concatenate([self.changes[-(WINDOW - 1) :], pair[None]]))

    @property
    def scale(self) -> np.ndarray:
        """Of the changes of each group, [groups]; infinite where there are too few to know."""
        found: np.ndarray = np.where(self._counts >= ENOUGH, self._centre_and_scale[1], np.inf)
        return found

    @property
    def settled_scale(self) -> np.ndarray:
        """The scale where there are enough changes to trust a small one, [groups]; infinite where there are not."""
        found: np.ndarray = np.where(self._counts >= _LATEST, self.scale, np.inf)
        return found

    def limit(self, least: np.ndarray, unknown: np.ndarray, multiple: np.ndarray) -> np.ndarray:
        """The drop of each group from which on the next change is an outlier, [groups].

        A scale of few changes is often far too small, above all where their errors are as large as they are: with fewer
        than twenty, what is usual widens the limit of who knows nothing, and does not narrow it.

        Args:
            least: below which no drop is worth a refusal.
            unknown: the same while there are too few changes to know; infinite for no limit.
            multiple: scales above the centre.
        """
        centre, scale = self._centre_and_scale
        usual = np.nan_to_num(centre + multiple * scale, nan=-np.inf)
        few = np.where(np.isfinite(unknown), np.maximum(least, unknown), least)
        known = np.where(self._counts >= _LATEST, least, few)
        found: np.ndarray = np.maximum(np.where(self._counts >= ENOUGH, known, unknown), usual)
        return found

    @cached_property
    def _counts(self) -> np.ndarray:
        found: np.ndarray = np.isfinite(self.changes[:, :, 1]).sum(0)
        return found

    @cached_property
    def _centre_and_scale(self) -> tuple[np.ndarray, np.ndarray]:
        errors = self.changes[:, :, 1]
        errors = np.where(np.isfinite(errors), errors, np.nan)
        changes = self.changes[:, :, 0] + 0 * errors
        if not len(changes):
            nothing = np.full(changes.shape[1], np.nan)
            return nothing, nothing
        with warnings.catch_warnings():  # of groups of which nothing is known
            warnings.simplefilter("ignore", RuntimeWarning)
            centre, far = np.nanmedian(changes, 0), np.abs(changes - np.nanmedian(changes, 0))
            # A model that begins to move is given more room at once, one that comes to rest less room slowly.
            width = np.fmax(np.nanquantile(far, _QUANTILE, axis=0), np.nanquantile(far[-_LATEST:], _QUANTILE, axis=0))
            square = np.fmax(np.nanmean(far**2, axis=0), np.nanmean(far[-_LATEST:] ** 2, axis=0))
            noise, mean_noise = np.nanmedian(errors**2, 0), np.nanmean(errors**2, 0)
        # Where most looks see no change at all, the quantile is the size of the smallest that one can see.
        unseen = (noise == 0) & (mean_noise > 0)
        squares = (width / _NORMAL) ** 2 - noise
        squares = np.where(unseen, np.minimum(squares, square - mean_noise), squares)
        return centre, np.sqrt(np.maximum(0.0, squares))
