"""Figures as files beside a page, and as what the page embeds of them."""

from __future__ import annotations

import base64
from collections.abc import Callable

from matplotlib.figure import Figure

from taster.experiments import RunDirectory
from taster.report.blocks import ThemedImage
from taster.report.figures import Theme, as_svg, without_mathtext

Plot = Callable[[Theme], Figure | None]
"""Draws a figure for one theme; None if there is nothing to draw."""


class FigureFiles:
    """Writes figures in both themes.

    Args:
        folder: where figures/ is written to.
    """

    def __init__(self, folder: RunDirectory) -> None:
        self._folder = folder

    def write(self, name: str, plot: Plot) -> ThemedImage | None:
        """Writes figures/NAME-light.svg and figures/NAME-dark.svg; returns None if there is nothing to draw."""
        light, dark = self._write(name, plot, "light"), self._write(name, plot, "dark")
        return None if light is None or dark is None else ThemedImage(light, dark)

    def _write(self, name: str, plot: Plot, theme: Theme) -> str | None:
        with without_mathtext():
            figure = plot(theme)
            if figure is None:
                return None
            svg = as_svg(figure)
        self._folder.write_bytes(f"figures/{name}-{theme}.svg", svg)
        return data_uri(svg, "image/svg+xml")


def data_uri(content: bytes, kind: str) -> str:
    """Content of a media type as an address that holds it whole."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
