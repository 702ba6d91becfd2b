"""The report page of a study: verdicts, tables and figures in one file."""

from figures.report.drawn import drawn_report
