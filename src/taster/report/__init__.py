"""Tables, figures and the page of a run."""

from taster.report.page import write_report
from taster.report.summary import HEADINGS, LEGEND, Line, Spread, summarise

__all__ = ["HEADINGS", "LEGEND", "Line", "Spread", "summarise", "write_report"]
