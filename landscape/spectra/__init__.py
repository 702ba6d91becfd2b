"""Eigenvalues and functions of them: by Lanczos, by stochastic quadrature, from random probes, or exactly.

Algorithms take a `LinearOperator`, or the Gram matrix of a classifier's Jacobian.
"""

# pyright: reportUnusedImport=false

from landscape.spectra.estimators import diagonal_estimates, hutch_plus_plus, hutchinson, squared_frobenius, xtrace
from landscape.spectra.exact import Spectrum, dense_spectrum, gauss_newton_rows, gradient_shares, spectrum_of_matrix, spectrum_of_rows
from landscape.spectra.gram import GradientSpectrum, gradient_spectrum, subset_of_examples, subset_spectrum, validated
from landscape.spectra.krylov import SORT_KEYS, Eigenpairs, Tridiagonal, eigenpairs, lanczos, lanczos_many
from landscape.spectra.quadrature import (
    NOISE,
    Estimate,
    SpectralMeasure,
    decay_exponent,
    effective_dimension,
    effective_rank,
    jackknifed,
    log_determinant,
    mean_of,
    negative_mass,
    outliers,
    participation_ratio,
    slq,
    spectral_density,
    spectral_measure,
    trace,
    with_quadrature_error,
)
