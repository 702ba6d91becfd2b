"""The frozen description of one run, from which its identity follows."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from analyses.specs.spec import SCHEMA, Spec, default_lr, field_names, spec_from

__getattr__ = on_demand(__name__, __file__)
