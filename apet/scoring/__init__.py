"""Turn examples into batches, logits, losses and metrics, for one task and one kind of model."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.scoring.baselines import better_baseline, model_free_scores
    from apet.scoring.evaluation import evaluate, predictions, sorted_by_length
    from apet.scoring.loss import IGNORED, cross_entropy, squared_error
    from apet.scoring.metrics import lowest, metric_names
    from apet.scoring.sampling_errors import Score, stderr_of_mean
    from apet.scoring.scorer import Batch, Item, Scorer
    from apet.scoring.scorer_choice import check_padding, scorer_of
    from apet.scoring.verbaliser import VERBALISER_FILE, Verbaliser, model_card, saved_verbaliser

__getattr__ = on_demand(__name__, __file__)
