"""The training loop: batches, steps, learning-rate search, L-BFGS and checkpoints."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.training.checkpoints import load_checkpoint
    from apet.training.lbfgs import mean_loss, minimise, most_gradients
    from apet.training.loop import interruptible, train
    from apet.training.options import PRECISIONS, SCHEDULES, Progress, TrainOptions
    from apet.training.rate_search import FACTORS, PILOT_STEPS
    from apet.training.step import Stepper

__getattr__ = on_demand(__name__, __file__)
