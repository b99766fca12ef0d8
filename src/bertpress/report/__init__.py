"""Results for people: an HTML page, Markdown, and tables for the terminal, all pure functions of results."""

from bertpress.report.advice import advice_lines
from bertpress.report.comparison import verdict
from bertpress.report.dynamic import dynamic_page
from bertpress.report.plain import bench_table, engines_table, markdown, table
from bertpress.report.profiling import profile_page
from bertpress.report.quantization import sensitivity_page
from bertpress.report.run import run_page
from bertpress.report.search import search_page, search_table
from bertpress.report.study import study_page
from bertpress.report.survey_table import study_table

__all__ = [
    "advice_lines",
    "bench_table",
    "dynamic_page",
    "engines_table",
    "markdown",
    "profile_page",
    "run_page",
    "search_page",
    "search_table",
    "sensitivity_page",
    "study_page",
    "study_table",
    "table",
    "verdict",
]
