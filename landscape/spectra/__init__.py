"""Eigenvalues and what follows from them: by Lanczos, by stochastic quadrature, from random probes, or exactly.

Everything takes a `LinearOperator`, or the Gram matrix of a classifier's Jacobian.
"""

# pyright: reportUnusedImport=false

from landscape.spectra.estimators import diagonal, hutch_plus_plus, hutchinson, squared_frobenius, xtrace
from landscape.spectra.exact import Spectrum, by_columns, gauss_newton_rows, of_matrix, of_rows, shares
from landscape.spectra.gram import GradientSpectrum, checked, gradient_spectrum, subset, subset_spectrum
from landscape.spectra.krylov import ORDERS, Eigenpairs, Tridiagonal, eigenpairs, lanczos, lanczos_many
from landscape.spectra.quadrature import (
    NOISE,
    Estimate,
    SpectralMeasure,
    decay_exponent,
    density,
    effective_dimension,
    effective_rank,
    log_determinant,
    mean_of,
    negative_mass,
    outliers,
    participation_ratio,
    pooled,
    resolved,
    slq,
    spectral_measure,
    trace,
)
