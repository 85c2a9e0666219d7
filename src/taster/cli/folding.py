"""Names in narrow columns: broken where a reader would break them, never in mid-word where that can be helped."""

from __future__ import annotations

import re

_PIECES = re.compile(r"[^ _\-,/]*[ _\-,/]?")


def fold(name: str, width: int) -> str:
    """A name in lines of at most `width` characters, broken after a space, an underscore, a hyphen, a comma or a slash;
    a piece that is longer by itself is cut.

    Args:
        name: of an attack, a defence or a result.
        width: at least 1.
    """
    lines = [""]
    for piece in _PIECES.findall(name):
        if len((lines[-1] + piece).rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return "\n".join(line.rstrip() for line in lines)


def longest_piece(name: str) -> int:
    """The width under which `fold` has to cut."""
    return max((len(piece.rstrip()) for piece in _PIECES.findall(name)), default=0)
