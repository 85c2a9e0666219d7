"""Tables from files: what is read, what is fitted on training rows alone, and what every kind of bad file is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from taster.data import Table, fit_numbers, fit_words, load_table
from taster.errors import DataError

NUMBERS = "length,weight,kind\n1,2.5,pear\n3,-4e1,apple\n5,6,pear\n"
TEXTS = "ham\tsee you at noon\nspam\tfree prize now\nham\tnoon is free\nspam\tprize prize prize\n"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def made(content: str | bytes, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return made


def test_numbers_with_a_header_that_is_found(write: Any) -> None:
    table = load_table(write(NUMBERS))
    assert table.columns == ("length", "weight")
    assert table.class_names == ("apple", "pear")
    assert table.y.tolist() == [1, 0, 1]
    assert table.numbers is not None
    assert table.numbers.tolist() == [[1, 2.5], [3, -40], [5, 6]]
    assert load_table(write(NUMBERS), label="kind", header=True).y.tolist() == [1, 0, 1]


def test_no_header_is_found_where_all_rows_are_numbers(write: Any) -> None:
    table = load_table(write("1;2;0\n3;4;1\n\n5;6;0\n", "table.txt"), delimiter=";")
    assert table.columns == ("column 0", "column 1")
    assert table.numbers is not None
    assert table.numbers.shape == (3, 2)
    named = load_table(write("1;2;0\n3;4;1\n5;6;0\n7;8;1\n", "table.txt"), delimiter=";", header=True)
    assert named.columns == ("1", "2")
    assert len(named) == 3


def test_labels_that_are_numbers_are_sorted_as_numbers_and_others_as_strings(write: Any) -> None:
    assert load_table(write("1,10\n1,9\n1,10\n")).class_names == ("9", "10")
    assert load_table(write("1,x10\n1,x9\n1,x10\n")).class_names == ("x10", "x9")


def test_columns_by_place_and_those_that_are_left_out(write: Any) -> None:
    table = load_table(write("kind,id,a,b\nx,no number,1,2\ny,none,3,4\nx,none,5,6\n"), label=0, ignore=["id", -1])
    assert table.columns == ("a",)
    assert table.y.tolist() == [0, 1, 0]


def test_texts_without_a_header_and_with_one(write: Any) -> None:
    for content in (TEXTS, "label\ttext\n" + TEXTS):
        table = load_table(write(content, "table.tsv"), label=0, text=1)
        assert table.texts == ("see you at noon", "free prize now", "noon is free", "prize prize prize")
        assert table.class_names == ("ham", "spam")
    assert load_table(write("a\tb\n" + TEXTS, "table.tsv"), label="a", text="b").columns == ("b",)


def test_a_quote_in_a_tab_separated_text_swallows_no_rows(write: Any) -> None:
    content = 'ham\t"see you\nspam\tfree\nham\tnoon"\nspam\tprize\n'
    assert len(load_table(write(content, "table.tsv"), label=0, text=1)) == 4
    assert len(load_table(write('1,"a, b"\n2,c\n3,"a, b"\n'))) == 3
    with pytest.raises(DataError, match=r"one label|each of them once"):
        load_table(write(content, "table.tsv"), label=0, text=1, quoted=True)


def test_a_byte_order_mark_is_no_part_of_a_name(write: Any) -> None:
    assert load_table(write(b"\xef\xbb\xbf" + NUMBERS.encode())).columns == ("length", "weight")
    latin = load_table(
        write("ham\tcaf\xe9\nspam\tprix\nham\tth\xe9\n".encode("latin-1"), "t.tsv"), label=0, text=1, encoding="latin-1"
    )
    assert latin.texts == ("café", "prix", "thé")


def test_repeated_rows_can_be_dropped_and_other_labels_make_other_rows(write: Any) -> None:
    table = load_table(write("1,2,a\n1,2,b\n1,2,a\n3,4,b\n")).without_repeats()
    assert table.numbers is not None
    assert table.numbers.tolist() == [[1, 2], [1, 2], [3, 4]]
    assert table.y.tolist() == [0, 1, 1]
    texts = load_table(write(TEXTS + TEXTS, "t.tsv"), label=0, text=1)
    assert texts.without_repeats().texts == texts.texts[:4]  # type: ignore[index]


BAD: dict[str, tuple[str | bytes, dict[str, Any], str]] = {
    "empty": ("", {}, "got an empty file"),
    "blank": (" \n\n", {}, "got an empty file"),
    "one row": ("1,2,a\n", {}, "got one row"),
    "one column": ("1\n2\n", {}, "got one column by the delimiter ','"),
    "wrong delimiter": ("1;2\n3;4\n", {}, 'delimiter=";"'),
    "no delimiter": (NUMBERS, {"delimiter": ",,"}, "delimiter: got ',,', wanted one character"),
    "ragged": ("1,2,a\n1,2,3,b\n", {}, "line 2 has 4 columns, line 1 has 3"),
    "NaN": ("1,2,a\n3,nan,b\n", {}, "line 2, column 1: got nan, wanted a finite number"),
    "infinite": ("1,-inf,a\n3,4,b\n", {}, "line 1, column 1: got -inf"),
    "too large": ("1,2,a\n3,1e39,b\n", {}, "got 1e39, wanted a finite number of float32"),
    "missing": ("1,2,a\n3,,b\n", {}, "line 2, column 1: got '', wanted a number"),
    "underscore": ("1,2,a\n3,1_0,b\n", {}, "got '1_0', wanted a number"),
    "text for numbers": ("1,two,a\n3,four,b\n", {}, "line 1, column 1: got 'two', wanted a number .header=True"),
    "fault below a header": (NUMBERS + "7,x,pear\n", {}, "line 5, weight: got 'x', wanted a number .text"),
    "one class": ("1,2,a\n3,4,a\n", {}, "got the one label 'a' in 2 rows"),
    "no classes": ("1,2,a\n3,4,b\n5,6,c\n", {}, "got 3 labels, each of them once"),
    "no label": ("1,2,a\n3,4, \n", {}, "line 2 has no label"),
    "unknown name": (NUMBERS, {"label": "colour"}, "label: got 'colour', which 0 columns .*length, weight, kind"),
    "doubtful name": ("a,a,b\n1,2,3\n", {"label": "a"}, "which 2 columns are called"),
    "unknown place": (NUMBERS, {"label": 3}, "label: got column 3, wanted 0 to 2"),
    "name without header": (NUMBERS, {"label": "kind", "header": False}, "header=False, wanted its position"),
    "one column twice": (NUMBERS, {"label": 0, "text": 0}, "got one column twice: label"),
    "label left out": (NUMBERS, {"ignore": ["kind"]}, "got one column twice: label"),
    "nothing left": ("a,b\n1,2\n3,4\n", {"ignore": [0]}, "no column beside the labels"),
    "encoding": ("1,2,é\n3,4,b\n".encode("latin-1"), {}, 'line 1 is not utf-8.*encoding="latin-1"'),
    "no encoding": (NUMBERS, {"encoding": "klingon"}, "encoding: got 'klingon'"),
    "open quote": ('1,"2,a\n3,4,b\n', {}, "line 2: .*quoted=False"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_files_are_told(write: Any, case: str) -> None:
    content, options, message = BAD[case]
    with pytest.raises(DataError, match=message):
        load_table(write(content), **options)


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.csv", tmp_path, "a\0b"):
        with pytest.raises(DataError, match="cannot be read as a file"):
            load_table(path)


def test_scales_are_those_of_the_training_rows(write: Any) -> None:
    table = load_table(write("0,5,a\n10,5,b\n20,6,a\n"))
    train = torch.tensor([0, 1])
    ranged = fit_numbers(table, train)
    assert ranged.x.tolist() == [[0, 0], [1, 0], [2, 1]]
    assert (ranged.low, ranged.high) == (0, 1)
    standard = fit_numbers(table, train, scale="standard")
    assert standard.x.tolist() == [[-1, 0], [1, 0], [3, 1]]
    assert (standard.low, standard.high) == (-1, 1)
    plain = fit_numbers(table, train, scale="none")
    assert plain.x.tolist() == [[0, 5], [10, 5], [20, 6]]
    assert (plain.low, plain.high) == (0, 10)
    assert plain.classes == 2
    assert torch.equal(plain.batch(torch.tensor([2])).x, torch.tensor([[20.0, 6.0]]))


def test_the_vocabulary_is_that_of_the_training_rows(write: Any) -> None:
    table = load_table(write(TEXTS, "table.tsv"), label=0, text=1)
    train = torch.tensor([2, 3])
    found = fit_words(table, train)
    assert found.feature_names == ("free", "is", "noon", "prize")
    assert found.x.tolist() == [[0, 0, 1, 0], [1, 0, 0, 1], [1, 1, 1, 0], [0, 0, 0, 1]]
    assert (found.low, found.high) == (0, 1)
    counts = fit_words(table, train, features="counts")
    assert counts.x[3].tolist() == [0, 0, 0, 3]
    assert counts.high == 3
    weighted = fit_words(table, train, features="tfidf")
    assert torch.allclose(weighted.x.norm(dim=1), torch.ones(4))
    assert fit_words(table, train, max_words=1, features="counts").feature_names == ("prize",)
    assert fit_words(table, torch.arange(4), min_rows=2).feature_names == ("free", "noon", "prize")


def test_what_cannot_be_fitted_is_told(write: Any) -> None:
    numbers = load_table(write(NUMBERS))
    texts = load_table(write(TEXTS, "table.tsv"), label=0, text=1)
    both = torch.tensor([0, 1])
    with pytest.raises(DataError, match="fit_numbers is for numbers"):
        fit_words(numbers, both)
    with pytest.raises(DataError, match="fit_words is for texts"):
        fit_numbers(texts, both)
    for train, message in (
        (torch.tensor([0.0, 1.0]), r"got \[2\] of torch.float32"),
        (torch.tensor([0, 4]), "wanted 0 to 3"),
        (torch.tensor([-1, 1]), "wanted 0 to 3"),
        (torch.tensor([0, 0, 1]), "got 3 rows, 2 of them different"),
        (torch.tensor([0, 2]), "got rows of one class"),
        (torch.tensor([], dtype=torch.int64), r"got \[0\]"),
    ):
        with pytest.raises(DataError, match=message):
            fit_words(texts, train)
    with pytest.raises(DataError, match="got no words from 2 training rows with min_rows = 2"):
        fit_words(texts, both, min_rows=2)
    with pytest.raises(DataError, match="max_words: got 0, wanted at least 1"):
        fit_words(texts, both, max_words=0)
    with pytest.raises(DataError, match="both numbers and texts or neither"):
        Table("mine", torch.tensor([0, 1]), ("a", "b"), ())
    with pytest.raises(DataError, match="wanted int64"):
        Table("mine", torch.tensor([0, 1, 0]), ("a", "b"), ("t",), texts=("one", "two"))


def test_the_sms_collection_and_spambase(data_folder: Path) -> None:
    sms = load_table(data_folder / "spam" / "sms-spam-collection.tsv", label=0, text=1)
    assert sms.class_names == ("ham", "spam")
    assert torch.bincount(sms.y).tolist() == [4827, 747]
    assert sms.texts is not None
    assert sms.texts[0].startswith("Go until jurong point")
    assert len(sms.without_repeats()) < len(sms)
    words = fit_words(sms, torch.arange(300))
    assert words.x.shape == (5574, len(words.feature_names))
    assert set(words.x.unique().tolist()) == {0.0, 1.0}
    spambase = load_table(data_folder / "spam" / "spambase.csv")
    assert torch.bincount(spambase.y).tolist() == [2788, 1813]
    assert (len(spambase.columns), spambase.columns[0]) == (57, "word_freq_make")
    assert load_table(data_folder / "spam" / "spambase.csv", label="spam_or_not").columns == spambase.columns
