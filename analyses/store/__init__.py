"""Runs on disk, a folder each, written whole or not at all, claimed by one process at a time; and rows, what each number of a run is.

The names of quantities and of statuses are constants of the modules `quantities` and `statuses`, which import nothing heavy.
"""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from analyses.store.locks import Held
    from analyses.store.quantities import QUANTITIES, Quantity
    from analyses.store.rows import COLUMNS, Row, completed, frame
    from analyses.store.run_store import DONE, FAILED, Store, Summary
    from analyses.store.statuses import NoValue

__getattr__ = on_demand(__name__, __file__)
