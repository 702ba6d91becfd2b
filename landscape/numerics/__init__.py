"""Numerical tools that the other packages share: random streams, roots, L-BFGS, dense factorisations, standard errors.

The package does not depend on any loss.
"""

# pyright: reportUnusedImport=false

from landscape.numerics.arrays import FloatArray, IntArray
from landscape.numerics.dense import dot, eigh, norm, qr
from landscape.numerics.quasi_newton import lbfgs, lbfgs_history
from landscape.numerics.random import Stream, normal, rademacher
from landscape.numerics.roots import find_root
from landscape.numerics.standard_errors import degrees_of_freedom, leave_one_out_stderr, leave_out_stderr, ratio_stderr, t_quantile
