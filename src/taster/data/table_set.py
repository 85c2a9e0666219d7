"""Tables as samples that a model can learn: scales and vocabularies, fitted on the training rows alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from taster.data.labelled_rows import LabelledRows
from taster.data.tables import Table
from taster.errors import DataError

WordFeatures = Literal["presence", "counts", "tfidf"]
"""What a word is in a text's features: whether it is there, how often, or its TF-IDF in a row of length 1."""

Scale = Literal["range", "standard", "none"]
"""Columns of numbers so that those of the training rows go from 0 to 1, have mean 0 and deviation 1, or as they are."""

_MOST_VALUES = 2**31


@dataclass(frozen=True, eq=False)
class TableSet(LabelledRows):
    """A table as features.

    Attributes:
        x: float32 [n, d], all rows of the table in its order.
        feature_names: columns or words, d of them.
        train: int64, the rows that scales or the vocabulary were fitted on.
        low, high: the smallest and largest value that a training row may have; other rows may leave this range where
            numbers were scaled.

    Raises:
        DataError: for tensors of other shapes or types, values that are not finite, and labels without a name.
    """

    feature_names: tuple[str, ...]
    train: Tensor
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.x.dtype != torch.float32 or self.x.dim() != 2 or self.x.shape[1] != len(self.feature_names):
            raise DataError(
                f"{self.name}: got features {list(self.x.shape)} of {self.x.dtype}, wanted float32 "
                f"[n, {len(self.feature_names)}]"
            )
        super().__post_init__()
        if not bool(self.x.isfinite().all()):
            raise DataError(f"{self.name}: got features that are not finite")

    @property
    def value_range(self) -> tuple[float, float]:
        """`low` and `high`."""
        return self.low, self.high

    @property
    def vocabulary(self) -> None:
        """None: features are no token ids."""
        return None


def fit_numbers(table: Table, train: Tensor, *, scale: Scale = "range") -> TableSet:
    """The number columns of a table, scaled by what the training rows show.

    Args:
        table: of numbers.
        train: int64 [m], the training rows.
        scale: how. A column that is the same in all training rows becomes 0 in them.

    Raises:
        DataError: for a table of texts, and for training rows that do not exist, repeat or have one class.
    """
    if table.numbers is None:
        raise DataError(f"{table.name}: got a table of texts, wanted one of numbers: fit_words is for texts")
    check_training_rows(table, train)
    found, fitted = table.numbers, table.numbers[train]
    if scale == "range":
        low, spread = fitted.amin(0), fitted.amax(0) - fitted.amin(0)
    elif scale == "standard":
        low, spread = fitted.mean(0), fitted.std(0, correction=0)
    else:
        low, spread = torch.zeros_like(found[0]), torch.ones_like(found[0])
    x = ((found - low) / torch.where(spread > 0, spread, 1.0)).float()
    ends = (0.0, 1.0) if scale == "range" else (float(x[train].min()), float(x[train].max()))
    return TableSet(table.name, x, table.y, table.class_names, table.columns, train, *ends)


def fit_words(
    table: Table,
    train: Tensor,
    *,
    features: WordFeatures = "presence",
    max_words: int | None = None,
    min_rows: int = 1,
) -> TableSet:
    """The texts of a table as features, one for each word of the training rows. Words are scikit-learn's: runs of at
    least two letters, digits and underscores, in lower case; what no training row holds is in no row's features.

    Args:
        table: of texts.
        train: int64 [m], the training rows.
        features: what a word's feature is.
        max_words: size of the vocabulary: the words that the training rows hold most often. None: all.
        min_rows: in how many training rows a word is at least.

    Raises:
        DataError: for a table of numbers; training rows that do not exist, repeat or have one class; no words in them;
            and features that would not fit into memory.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer  # slow to import, only needed here

    if table.texts is None:
        raise DataError(f"{table.name}: got a table of numbers, wanted one of texts: fit_numbers is for numbers")
    check_training_rows(table, train)
    for key, value in (("max_words", max_words), ("min_rows", min_rows)):
        if value is not None and value < 1:
            raise DataError(f"{key}: got {value}, wanted at least 1")
    options = {"max_features": max_words, "min_df": min_rows}
    words = (
        TfidfVectorizer(**options) if features == "tfidf" else CountVectorizer(binary=features == "presence", **options)
    )
    fitted = [table.texts[row] for row in train.tolist()]
    try:
        words.fit(fitted)
    except ValueError as error:  # scikit-learn's for an empty vocabulary
        raise DataError(
            f"{table.name}: got no words from {len(fitted)} training rows with min_rows = {min_rows}"
        ) from error
    names = tuple(str(word) for word in words.get_feature_names_out())
    values = len(names) * len(table)
    if values > _MOST_VALUES:
        raise DataError(
            f"{table.name}: got {len(names)} words in {len(table)} rows, {4 * values / 2**30:.0f} GiB; wanted fewer: "
            "max_words or min_rows"
        )
    x = torch.from_numpy(words.transform(table.texts).toarray()).float()
    high = float(x[train].max()) if features == "counts" else 1.0
    return TableSet(table.name, x, table.y, table.class_names, names, train, 0.0, high)


def check_training_rows(table: Table, train: Tensor) -> None:
    """Raises DataError for training rows that do not exist, repeat or have one class."""
    if train.dtype != torch.int64 or train.dim() != 1 or len(train) == 0:
        raise DataError(f"train: got {list(train.shape)} of {train.dtype}, wanted int64 [m], the training rows")
    if int(train.min()) < 0 or int(train.max()) >= len(table):
        raise DataError(f"train: got rows from {int(train.min())} to {int(train.max())}, wanted 0 to {len(table) - 1}")
    different = len(set(train.tolist()))
    if different != len(train):
        raise DataError(f"train: got {len(train)} rows, {different} of them different; wanted each once")
    if len(set(table.y[train].tolist())) < 2:
        raise DataError("train: got rows of one class, wanted at least two")
