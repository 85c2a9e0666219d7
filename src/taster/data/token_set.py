"""Texts as token ids: a vocabulary fitted on the training rows, and texts of one length."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from taster.data.labelled_rows import LabelledRows
from taster.data.table_set import check_training_rows
from taster.data.tables import Table
from taster.errors import DataError

PADDING, UNKNOWN = 0, 1
"""Ids of what fills a short text up, and of words that the vocabulary does not have."""

_SPECIAL = ("", "?")


@dataclass(frozen=True, eq=False)
class TokenSet(LabelledRows):
    """A table of texts as token ids.

    Attributes:
        x: int64 [n, length], all rows of the table in its order.
        words: the word of each id; those of `PADDING` and `UNKNOWN` are "" and "?".
        train: int64, the rows that the vocabulary was fitted on.

    Raises:
        DataError: for tensors of other shapes or types, ids without a word, and labels without a name.
    """

    words: tuple[str, ...]
    train: Tensor

    def __post_init__(self) -> None:
        if self.x.dtype != torch.int64 or self.x.dim() != 2 or 0 in self.x.shape:
            raise DataError(f"{self.name}: got {list(self.x.shape)} of {self.x.dtype}, wanted ids, int64 [n, length]")
        if int(self.x.min()) < 0 or int(self.x.max()) >= len(self.words):
            raise DataError(
                f"{self.name}: got ids from {int(self.x.min())} to {int(self.x.max())}, wanted 0 to "
                f"{len(self.words) - 1}: those of words"
            )
        super().__post_init__()

    @property
    def value_range(self) -> tuple[float, float]:
        """The smallest and the largest id."""
        return 0.0, float(len(self.words) - 1)

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self.words)

    def text(self, ids: Tensor) -> str:
        """The words of a sample, int64 [length], without what fills it up."""
        return " ".join(self.words[place] for place in ids.tolist() if place != PADDING)


def fit_tokens(
    table: Table, train: Tensor, *, length: int | None = None, max_words: int | None = None, min_rows: int = 1
) -> TokenSet:
    """The texts of a table as ids of their words, in the order of the text. Words are those of `fit_words`.

        data = fit_tokens(load_table("messages.tsv", label=0, text=1), training_rows, length=24)
        data.text(data.x[0])

    Args:
        table: of texts.
        train: int64 [m], the training rows.
        length: that texts are cut or filled up to. Default: that of the longest training row.
        max_words: size of the vocabulary: the words that most training rows hold. None: all.
        min_rows: in how many training rows a word is at least.

    Raises:
        DataError: for a table of numbers; training rows that do not exist, repeat or have one class; no words in them;
            and settings below 1.
    """
    from sklearn.feature_extraction.text import CountVectorizer  # slow to import, only needed here

    if table.texts is None:
        raise DataError(f"{table.name}: got a table of numbers, wanted one of texts: fit_numbers is for numbers")
    check_training_rows(table, train)
    for key, value in (("length", length), ("max_words", max_words), ("min_rows", min_rows)):
        if value is not None and value < 1:
            raise DataError(f"{key}: got {value}, wanted at least 1")
    analyse = CountVectorizer().build_analyzer()
    texts: list[list[str]] = [analyse(text) for text in table.texts]
    rows = Counter(word for row in train.tolist() for word in set(texts[row]))
    # Where as many rows hold them, in alphabetical order.
    found = sorted((word for word, count in rows.items() if count >= min_rows), key=lambda word: (-rows[word], word))
    if not found:
        raise DataError(f"{table.name}: got no words from {len(train)} training rows with min_rows = {min_rows}")
    words = (*_SPECIAL, *found[:max_words])
    ids = {word: place for place, word in enumerate(words)}
    width = length or max(len(texts[row]) for row in train.tolist())
    x = torch.full((len(table), width), PADDING)
    for row, text in enumerate(texts):
        cut = [ids.get(word, UNKNOWN) for word in text[:width]]
        x[row, : len(cut)] = torch.tensor(cut, dtype=torch.int64)
    return TokenSet(table.name, x, table.y, table.class_names, words, train)
