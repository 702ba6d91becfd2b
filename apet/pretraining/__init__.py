"""How the ladder was made: corpus, pretext tasks and the pretraining loop."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.pretraining.corpus import CLS, EOS, PAD, SEP, VOCABULARY, corpus_files, token_stream, train_tokenizer
    from apet.pretraining.pretext import POSITIONS
    from apet.pretraining.pretraining_loop import OPTIMIZERS, Recipe, Stretch, pretrain, schedule

__getattr__ = on_demand(__name__, __file__)
