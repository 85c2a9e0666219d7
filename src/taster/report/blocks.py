"""The pieces that sections of a page are made of; page.html.j2 draws each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    style: Literal["", "soft", "bad"] = ""
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Table:
    """A table. Columns in `left` are words, the others numbers; those in `wrapped` may break into lines.

    `caption` says what the table is of, the first column what a row is of. A row begins a group where its cell in the
    column `grouped_by` differs from the one above. `bad` are (row, column) of cells to stand out.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)
    wrapped: Sequence[int] = ()
    grouped_by: int | None = None
    bad: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    kind: ClassVar[str] = "table"

    @property
    def scrolls_on(self) -> str:
        """The screens that it is likely to be wider than: "phone", "tablet" or "desk", empty for none."""
        columns = len(self.headings)
        return "" if columns <= 3 else "phone" if columns <= 6 else "tablet" if columns <= 9 else "desk"


@dataclass(frozen=True)
class ThemedImage:
    """Data URIs of a figure for pages on light and on dark ground."""

    light: str
    dark: str


@dataclass(frozen=True)
class Panel:
    """A figure with its caption; `alt` is read to those who cannot see it."""

    caption: str
    image: ThemedImage
    alt: str
    wide: bool = False


@dataclass(frozen=True)
class Panels:
    """Figures side by side."""

    panels: Sequence[Panel]
    kind: ClassVar[str] = "panels"


@dataclass(frozen=True)
class ColorLegend:
    """Labels and their colors."""

    entries: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "legend"


@dataclass(frozen=True)
class Strip:
    """Images in a row, as a data URI, with a label on their left."""

    label: str
    image: str
    alt: str


@dataclass(frozen=True)
class Strips:
    """Framed groups of strips under a heading, each a caption and its strips."""

    heading: str
    groups: Sequence[tuple[str, Sequence[Strip]]]
    kind: ClassVar[str] = "strips"


@dataclass(frozen=True)
class Definitions:
    """Terms and what they stand for."""

    entries: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "definitions"


@dataclass(frozen=True)
class Source:
    """Text in a fixed pitch that unfolds."""

    title: str
    text: str
    kind: ClassVar[str] = "source"


Block = Text | Table | Panels | ColorLegend | Strips | Definitions | Source


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """What links within the page lead to."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())
