"""What a run tunes: APET's k entries, all parameters, or a parameter-efficient method; and tuned models as files."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.methods.artefact import Artefact, Law, merge
    from apet.methods.merged_delta import DISPLACING, check_displacing, displacement
    from apet.methods.operation_names import MERGEABLE, METHOD_NAMES, OPERATION_NAMES
    from apet.methods.operations import OPERATIONS
    from apet.methods.shira import save, to_shira
    from apet.methods.tunable import BASELINES, METHODS, PROMPT_TOKENS, Choice, Mounted, count, mount, space_of

__getattr__ = on_demand(__name__, __file__)
