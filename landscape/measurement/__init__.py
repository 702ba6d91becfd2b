"""The measured threshold k*: where runs over k pass from missing a target to reaching it, with a confidence interval.

By robust regression of the gap on log k, or by a probit posterior if only hits and misses are informative.
"""

# pyright: reportUnusedImport=false

from landscape.measurement.crossings import Crossing, RunsNeeded, accuracy_gap, fit_crossing, loss_gap, runs_needed
from landscape.measurement.probit import ThresholdPosterior, probit_posterior
