"""The measured threshold k*: the k at which runs pass from missing a target to reaching it, with a confidence interval.

The estimate is a robust regression of the gap on log k, or a probit posterior if only hits and misses are informative.
"""

# pyright: reportUnusedImport=false

from landscape.measurement.crossings import Crossing, RunsNeeded, accuracy_gap, fit_crossing, loss_gap, runs_needed
from landscape.measurement.probit import ThresholdPosterior, probit_posterior
