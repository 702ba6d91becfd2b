"""Load models by name: the built-in ladder with its weights, aliases, Hugging Face ids, folders, and two networks for images."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.models.forms import BARE, FORMS, pretrained_form
    from apet.models.ladder import (
        DEFAULTS,
        HALF_STEPS,
        SCHEDULES,
        SOURCES,
        TOKENIZER,
        Stretch,
        build_ladder_model,
        config_of,
        ladder_tokenizer,
    )
    from apet.models.listing import models_table
    from apet.models.loading import Loaded, load_model, saved_form
    from apet.models.locations import locate
    from apet.models.net_names import NET_NAMES
    from apet.models.vocabulary import CLS, EOS, FIRST_SENTINEL, MASK, POSITIONS, SEP, SPECIAL_TOKENS, VOCABULARY

__getattr__ = on_demand(__name__, __file__)
