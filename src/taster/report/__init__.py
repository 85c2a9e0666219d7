"""Tables, figures and the page of a run."""

from taster.report.page import write_report
from taster.report.summary import LEGEND, Line, Reported, Spread, headings, summarise

__all__ = ["LEGEND", "Line", "Reported", "Spread", "headings", "summarise", "write_report"]
