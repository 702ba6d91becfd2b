"""Results for other tools: tables of rows and of training runs, JSON summaries, and exported models."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from analyses.results.exporting import export
    from analyses.results.run_facts import reported
    from analyses.results.study_rows import Results, concluded, explained, rows_of
    from analyses.results.summaries import slice_summary, spectrum_summary, train_summary
    from analyses.results.table_files import write_table
    from analyses.results.training_table import table, write_rows

__getattr__ = on_demand(__name__, __file__)
