"""The machine's resources: memory and its peak, devices and processes."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.machine.memory import SMALLER, checkpointed, free_memory, in_parts, out_of_memory, release_memory, share_memory
    from apet.machine.peak_memory import peak_bytes, reset_peak
    from apet.machine.processes import (
        accelerator_for,
        any_process,
        broadcast,
        from_main_process,
        gather_rows,
        is_main_process,
        sum_over_processes,
        tracking,
        world_size,
    )

__getattr__ = on_demand(__name__, __file__)
