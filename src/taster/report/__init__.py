"""Tables, figures and the page of a run."""

from taster.report.page import write_report
from taster.report.summary import Line, Reported, Spread, headings, legend, summarise

__all__ = ["Line", "Reported", "Spread", "headings", "legend", "summarise", "write_report"]
