"""Pretrain the ladder's models: corpus, pretext tasks, the pretraining loop, and the export of a trained model."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.pretraining.ladder_making import make_ladder_model

__getattr__ = on_demand(__name__, __file__)
