"""Inference from noisy and censored numbers: regression over groups, variance components of crossed designs, corrected tests.

Every estimate has a likelihood interval and one-sided tests against any bound.
"""

# pyright: reportUnusedImport=false

from landscape.inference.censored_likelihood import Observations, likelihood
from landscape.inference.censored_regression import Estimate, coefficient, fit, informative, total_spread
from landscape.inference.multiple_tests import holm
from landscape.inference.variance_components import Crossed, row_spread, spread_slope
