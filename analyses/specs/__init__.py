"""Specs: the frozen description of one run. Each kind of run has one dataclass, and the run's identity follows from its fields.

Each field is declared once (`option`) with its type, default, meaning, choices and range. The command line and study files are generated
from the declarations.
"""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from analyses.specs.base import Spec
    from analyses.specs.building import as_kind, field_names, spec_dict, spec_from, trimmed
    from analyses.specs.kinds import KINDS, PredictSpec, SliceSpec, SpectrumSpec, TrainSpec
    from analyses.specs.option import PANELS, defaults_of, options_of, types_of
    from analyses.specs.parts import DataPart, asks_for_text

__getattr__ = on_demand(__name__, __file__)
