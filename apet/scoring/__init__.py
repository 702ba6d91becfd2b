"""Examples to batches to logits to losses and metrics, for one task and one kind of model."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.scoring.evaluation import by_length, chance, evaluate, metric_names, predictions, without_model
    from apet.scoring.loss import IGNORED, cross_entropy
    from apet.scoring.scorer import Batch, Item, Scorer
    from apet.scoring.scorer_choice import scorer_of
    from apet.scoring.standard_errors import stderr_of_mean, stderr_of_ratio
    from apet.scoring.verbaliser import FILE, Verbaliser, card, kept

__getattr__ = on_demand(__name__, __file__)
