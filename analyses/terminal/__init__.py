"""Support for the command line: options from specs, registration of commands, printing, progress and signals.

Only cli.py imports this package.
"""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from analyses.terminal.commands import (
        TARGETS,
        Aim,
        At,
        CheckedTask,
        Cpus,
        Device,
        DryRun,
        Fraction,
        Given,
        Gpus,
        HavingOption,
        Json,
        Leases,
        MaxLength,
        Memory,
        Out,
        Ray,
        ReadingModel,
        Results,
        Resume,
        Runs,
        TaskFolder,
        aim_of,
        app,
        command,
        launcher,
        on_device,
    )
    from analyses.terminal.lines import (
        print_claims,
        print_explanation,
        print_report,
        print_task_check,
        short_method_line,
        short_model_line,
        short_table_line,
        short_task_line,
    )
    from analyses.terminal.printing import bar, listing, log, print_plan, print_result
    from analyses.terminal.progress_table import run_watched

__getattr__ = on_demand(__name__, __file__)
