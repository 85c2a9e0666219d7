"""Texts as token ids: the vocabulary is that of the training rows, and every text has one length."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from taster.data import Table, TokenSet, fit_tokens
from taster.errors import DataError

TEXTS = ("see you at noon", "free prize now", "noon is free", "a prize: PRIZE unheard", "at last")
TABLE = Table("mail", torch.tensor([0, 1, 0, 1, 0]), ("ham", "spam"), ("text",), texts=TEXTS)
TRAIN = torch.tensor([0, 1, 2])


def test_ids_are_in_the_order_of_the_text_and_of_how_many_rows_hold_a_word() -> None:
    data = fit_tokens(TABLE, TRAIN)
    # "free" and "noon" are in two training rows; single letters are no words.
    assert data.words == ("", "?", "free", "noon", "at", "is", "now", "prize", "see", "you")
    assert data.vocabulary == 10
    assert data.value_range == (0.0, 9.0)
    assert data.shape == (4,)
    assert [data.text(row) for row in data.x] == [
        "see you at noon",
        "free prize now",
        "noon is free",
        "prize prize ?",
        "at ?",
    ]
    assert data.x[4].tolist() == [4, 1, 0, 0]
    assert torch.equal(data.batch(TRAIN).x, data.x[:3])


def test_length_words_and_rows_are_bounded() -> None:
    short = fit_tokens(TABLE, TRAIN, length=2, max_words=3)
    assert short.words == ("", "?", "free", "noon", "at")
    assert short.x.tolist() == [[1, 1], [2, 1], [3, 1], [1, 1], [4, 1]]
    assert fit_tokens(TABLE, TRAIN, min_rows=2).words == ("", "?", "free", "noon")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"length": 0}, "length: got 0"), ({"min_rows": 3}, "got no words from 3 training rows with min_rows = 3")],
)
def test_what_cannot_be_fitted(settings: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_tokens(TABLE, TRAIN, **settings)  # type: ignore[arg-type]


def test_tables_of_numbers_and_odd_rows_are_refused() -> None:
    numbers = Table("numbers", torch.tensor([0, 1]), ("a", "b"), ("c",), numbers=torch.zeros(2, 1).double())
    with pytest.raises(DataError, match="wanted one of texts"):
        fit_tokens(numbers, torch.tensor([0, 1]))
    with pytest.raises(DataError, match="rows of one class"):
        fit_tokens(TABLE, torch.tensor([0, 2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(5, 4)}, "wanted ids"),
        ({"x": torch.full((5, 4), 10)}, "got ids from 10 to 10, wanted 0 to 9"),
        ({"y": torch.zeros(4).long()}, "got labels"),
        ({"y": torch.full((5,), 2)}, "no places in 2 class names"),
    ],
)
def test_a_set_that_does_not_fit_together_is_refused(change: dict[str, torch.Tensor], message: str) -> None:
    whole: TokenSet = fit_tokens(TABLE, TRAIN)
    with pytest.raises(DataError, match=message):
        replace(whole, **change)
