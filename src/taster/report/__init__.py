"""Tables, figures and the page of a run."""

from taster.report.page import write_report
from taster.report.summary import MeanStd, SummaryRow, legend, result_table, summarize

__all__ = ["MeanStd", "SummaryRow", "legend", "result_table", "summarize", "write_report"]
