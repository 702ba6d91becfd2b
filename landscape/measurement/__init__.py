"""The measured threshold: where runs over k pass from missing a target to reaching it, with an interval.

By robust regression of the gap on log k, or, where only hits and misses are known, by a probit posterior.
"""

# pyright: reportUnusedImport=false

from landscape.measurement.crossings import Closing, Crossing, closing, crossing, gap_of_accuracy, gap_of_loss
from landscape.measurement.probit import Passage, passage
