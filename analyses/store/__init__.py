"""The store of runs on disk, and the rows that hold their numbers.

Each run has a folder. A run is written completely or not at all, and only one process at a time can claim it. The names of quantities and
statuses are constants of the modules `quantities` and `statuses`, which have no heavy imports.
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
