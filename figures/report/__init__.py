"""The report page of a study: verdicts, tables and figures in one file."""

from figures.report.drawn import drawn_report
from figures.report.page import write_report
from figures.report.summary_table import summary_table
from figures.report.verdicts import answers
