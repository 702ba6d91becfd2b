"""Runs on disk: a folder each, written whole or not at all, claimed by one process at a time."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from analyses.store.locks import Held
    from analyses.store.run_store import DONE, FAILED, Row, Store, Summary, frame

__getattr__ = on_demand(__name__, __file__)
