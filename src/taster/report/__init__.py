"""Tables, figures and the page of a run."""

from taster.report.controls import honest_label, undefended_label
from taster.report.offline_summary import offline_legend, offline_table, summarize_offline
from taster.report.page import write_report
from taster.report.summary import MeanStd, SummaryRow, legend, result_table, summarize

__all__ = [
    "MeanStd",
    "SummaryRow",
    "honest_label",
    "legend",
    "offline_legend",
    "offline_table",
    "result_table",
    "summarize",
    "summarize_offline",
    "undefended_label",
    "write_report",
]
