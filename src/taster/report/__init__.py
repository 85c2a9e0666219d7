"""Tables, figures and the page of a run."""

from taster.report.page import write_report
from taster.report.summary import Line, Reported, Spread, legend, summarise, tabulated

__all__ = ["Line", "Reported", "Spread", "legend", "summarise", "tabulated", "write_report"]
