"""Tables from a file: labels, and columns of numbers or one column of texts."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from taster.errors import DataError

Column = str | int
"""A column by its name in the header, or by its position; negative ones count from the end."""


@dataclass(frozen=True, eq=False)
class Table:
    """Labelled rows as a file has them, of which nothing has been computed yet: see `taster.data.fit_numbers` and
    `taster.data.fit_words`.

    Attributes:
        name: as the user gave it.
        y: int64 [n], places in `class_names`.
        class_names: the labels as the file has them, sorted: as numbers if all of them are, else as strings.
        columns: names of the number columns; of the text column, if there is one.
        numbers: float64 [n, d]. None in a table of texts.
        texts: n of them. None in a table of numbers.

    Raises:
        DataError: for parts of other lengths, neither numbers nor texts, or both.
    """

    name: str
    y: Tensor
    class_names: tuple[str, ...]
    columns: tuple[str, ...]
    numbers: Tensor | None = None
    texts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if (self.numbers is None) == (self.texts is None):
            raise DataError(f"{self.name}: got a table with both numbers and texts or neither, wanted one of them")
        rows = len(self.numbers) if self.numbers is not None else len(self.texts or ())
        if self.y.dtype != torch.int64 or self.y.shape != (rows,):
            raise DataError(
                f"{self.name}: got labels {list(self.y.shape)} of {self.y.dtype}, wanted int64 [{rows}]: one a row"
            )
        if rows == 0 or int(self.y.min()) < 0 or int(self.y.max()) >= len(self.class_names):
            raise DataError(f"{self.name}: got labels that are no places in {len(self.class_names)} class names")

    def __len__(self) -> int:
        return len(self.y)

    def without_repeats(self) -> Table:
        """The first of rows that are equal in all, label included: what is learned from one would otherwise be tested
        on another."""
        contents = [tuple(row) for row in self.numbers.tolist()] if self.numbers is not None else self.texts or ()
        first: dict[object, int] = {}
        for row, found in enumerate(zip(contents, self.y.tolist(), strict=True)):
            first.setdefault(found, row)
        keep = list(first.values())
        numbers = None if self.numbers is None else self.numbers[keep]
        texts = None if self.texts is None else tuple(self.texts[row] for row in keep)
        return Table(self.name, self.y[keep], self.class_names, self.columns, numbers, texts)


def load_table(
    path: str | Path,
    *,
    label: Column = -1,
    text: Column | None = None,
    ignore: Sequence[Column] = (),
    header: bool | None = None,
    delimiter: str | None = None,
    quoted: bool | None = None,
    encoding: str = "utf-8",
) -> Table:
    """Reads a local file of comma- or tab-separated values, whole, and checks every value.

        table = load_table("spambase.csv")                            # numbers, the labels in the last column
        table = load_table("messages.tsv", label=0, text=1)           # labels and texts
        data = fit_words(table, training_rows)                        # or fit_numbers
        samples = data.batch(training_rows)

    Args:
        path: of the file.
        label: column of the labels.
        text: column of the texts; then no other column but the labels' is read. None: every other column holds numbers.
        ignore: columns that are left out.
        header: whether the first row names the columns. Default: it does if a column is named by the other arguments,
            if a column of numbers begins with none, or, in a table of texts, if its label is no other row's.
        delimiter: one character. Default: a tab for the endings .tsv and .tab, a comma for .csv; for others a tab if
            the first line has one.
        quoted: whether a value may stand in double quotes. Default: not where a tab delimits, as texts hold quotes of
            their own there, one of which would swallow the rows up to the next.
        encoding: of the file. A byte order mark is dropped.

    Raises:
        DataError: for a file that is missing, empty, not of this encoding or of rows of different lengths; values that
            are no numbers or not finite; columns that do not exist; and labels that are empty, of one class, or all
            different.
    """
    content = _read(path, encoding)
    separator = _delimiter(Path(path), content, delimiter)
    rows = _rows(path, content, separator, separator != "\t" if quoted is None else quoted)
    named = [column for column in (label, text, *ignore) if isinstance(column, str)]
    if named and header is False:
        raise DataError(f"{path}: got the column {named[0]!r} and header=False, wanted its position")
    names = [cell.strip() for cell in rows[0][1]]
    width, known = len(names), header is True or bool(named)
    at = _place(path, "label", label, names, known)
    text_at = None if text is None else _place(path, "text", text, names, known)
    left_out = {_place(path, "ignore", column, names, known) for column in ignore}
    if at == text_at or at in left_out or text_at in left_out:
        raise DataError(
            f"{path}: got one column twice: label {label!r}, text {text!r}, ignore {list(ignore)}; wanted others"
        )
    features = [j for j in range(width) if j != at and j not in left_out] if text_at is None else [text_at]
    if not features:
        raise DataError(f"{path}: got no column beside the labels, wanted at least one")
    if len(rows) < 2:
        raise DataError(f"{path}: got one row, wanted more")
    if header is None and not named:
        known = _begins_with_names(rows, at, features, text_at is not None)
    if known:
        rows = rows[1:]
    columns = tuple(names[j] if known else f"column {j}" for j in features)
    y, class_names = _labels(path, [(line, cells[at].strip()) for line, cells in rows])
    if text_at is not None:
        return Table(str(path), y, class_names, columns, texts=tuple(cells[text_at] for _, cells in rows))
    numbers = [
        [_number(path, line, name, cells[j], not known and row == 0) for name, j in zip(columns, features, strict=True)]
        for row, (line, cells) in enumerate(rows)
    ]
    return Table(str(path), y, class_names, columns, numbers=torch.tensor(numbers, dtype=torch.float64))


def _read(path: str | Path, encoding: str) -> str:
    """The decoded file.

    Raises:
        DataError: if it cannot be read or decoded, or is empty.
    """
    try:
        raw = Path(path).expanduser().read_bytes()
    except (OSError, RuntimeError, ValueError) as error:  # also of names that no file can have
        raise DataError(f"{path}: cannot be read as a file: {error}") from error
    try:
        content = raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeError as error:
        line = raw[: getattr(error, "start", 0)].count(b"\n") + 1
        raise DataError(
            f'{path}: line {line} is not {encoding} ({error}); wanted the file\'s encoding, such as encoding="latin-1"'
        ) from error
    except LookupError as error:
        raise DataError(f"encoding: got {encoding!r}, wanted one that Python knows, such as utf-8") from error
    if not content.strip():
        raise DataError(f"{path}: got an empty file, wanted rows")
    return content


def _delimiter(path: Path, content: str, delimiter: str | None) -> str:
    if delimiter is not None:
        if len(delimiter) != 1 or delimiter in '\r\n"':
            raise DataError(f"delimiter: got {delimiter!r}, wanted one character such as ','")
        return delimiter
    by_ending = {".tsv": "\t", ".tab": "\t", ".csv": ","}.get(path.suffix.lower())
    return by_ending or ("\t" if "\t" in content.lstrip().split("\n", 1)[0] else ",")


def _rows(path: str | Path, content: str, delimiter: str, quoted: bool) -> list[tuple[int, list[str]]]:
    """The rows that are not empty, each with the line that it ends in.

    Raises:
        DataError: for rows of different lengths, and for what the format has no place for.
    """
    reader = csv.reader(
        io.StringIO(content, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if not cells:
                continue
            if rows and len(cells) != len(rows[0][1]):
                raise DataError(
                    f"{path}: line {reader.line_num} has {len(cells)} columns, line {rows[0][0]} has "
                    f"{len(rows[0][1])}; wanted as many in every row"
                )
            rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise DataError(
            f"{path}: line {reader.line_num}: {error}; quoted={not quoted} reads quotes otherwise"
        ) from error
    if len(rows[0][1]) < 2:
        raise DataError(
            f"{path}: got one column by the delimiter {delimiter!r}, wanted a label and at least one more: "
            'say which it is, such as delimiter=";"'
        )
    return rows


def _place(path: str | Path, key: str, column: Column, names: list[str], header: bool) -> int:
    """The position of a column.

    Raises:
        DataError: if there is none, or several have its name.
    """
    if isinstance(column, str):
        if names.count(column) != 1:
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise DataError(
                f"{path}: {key}: got {column!r}, which {names.count(column)} columns are called; wanted one of {shown}"
            )
        return names.index(column)
    if not -len(names) <= column < len(names):
        of = f": {', '.join(names[:20])}" if header else ""
        raise DataError(f"{path}: {key}: got column {column}, wanted 0 to {len(names) - 1}{of}")
    return column % len(names)


def _begins_with_names(rows: list[tuple[int, list[str]]], label: int, features: list[int], texts: bool) -> bool:
    first, rest = rows[0][1], [cells for _, cells in rows[1:]]
    if texts:
        return all(cells[label].strip() != first[label].strip() for cells in rest)
    return any(_parsed(first[j]) is None and all(_parsed(cells[j]) is not None for cells in rest) for j in features)


def _labels(path: str | Path, found: list[tuple[int, str]]) -> tuple[Tensor, tuple[str, ...]]:
    for line, name in found:
        if not name:
            raise DataError(f"{path}: line {line} has no label, wanted one in every row")
    distinct = {name for _, name in found}
    if len(distinct) < 2:
        raise DataError(f"{path}: got the one label {found[0][1]!r} in {len(found)} rows, wanted at least two classes")
    if len(distinct) == len(found) > 2:
        raise DataError(f"{path}: got {len(found)} labels, each of them once; wanted a column of classes: label=...")
    as_numbers = {name: _parsed(name) for name in distinct}
    numeric = all(value is not None and math.isfinite(value) for value in as_numbers.values())
    names = sorted(distinct, key=lambda name: (as_numbers[name] or 0.0, name) if numeric else (0.0, name))
    places = {name: place for place, name in enumerate(names)}
    return torch.tensor([places[name] for _, name in found]), tuple(names)


def _parsed(cell: str) -> float | None:
    """A number, NaN and the infinite ones too; None for what is none. Python's underscores are not a file's."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _number(path: str | Path, line: int, column: str, cell: str, first: bool) -> float:
    value = _parsed(cell)
    if value is None:
        hint = "header=True if this line names the columns; " if first else ""
        raise DataError(
            f"{path}: line {line}, {column}: got {cell[:40]!r}, wanted a number ({hint}text=... for a column of texts, "
            "ignore=[...] to leave it out)"
        )
    if not math.isfinite(value) or abs(value) > torch.finfo(torch.float32).max:
        raise DataError(f"{path}: line {line}, {column}: got {cell.strip()}, wanted a finite number of float32")
    return value
