"""Mathematics of a loss z -> L(z): curvature products, spectra, predicted and measured thresholds k*, and loss surfaces around a point.

The package needs torch, scipy and numpy, and no other package of this project. Vectors of k entries (z, v, eigenvectors) are torch tensors
on the objective's device. Numbers of a spectrum (eigenvalues, weights, thresholds) are numpy float64.

    objective = Objective(outputs, CrossEntropy(), batches, size=k)
    operator = GaussNewton(objective, z)
    check_operator(operator)
    top = eigenpairs(operator, count=10, steps=40)
    n_eff = effective_dimension(slq(operator, probes=4, steps=40, known=top), kappa=1e-3)
"""

# pyright: reportUnusedImport=false

# The loss and its curvature matrices
from landscape.curvature import (
    Block,
    CrossEntropy,
    CurvatureOperator,
    DenseOperator,
    EmpiricalFisher,
    GaussNewton,
    HasCurvature,
    HasLosses,
    HasRoots,
    HasSampledCurvature,
    Hessian,
    LinearOperator,
    ModuleOutputs,
    NotSymmetric,
    Objective,
    OperatorCheck,
    SquaredError,
    blocks,
    check_operator,
    groups,
    matmat,
    to_dense,
    to_scipy,
)

# Measured thresholds
from landscape.measurement import (
    Crossing,
    RunsNeeded,
    ThresholdPosterior,
    accuracy_gap,
    fit_crossing,
    loss_gap,
    probit_posterior,
    runs_needed,
)

# Predicted thresholds
from landscape.prediction import (
    Attribution,
    CoordinateFixedPoint,
    ExampleInterval,
    LinearisedClassifier,
    LinearisedObjective,
    MoreauPoint,
    MoreauPrediction,
    Prediction,
    PredictionInterval,
    ThresholdFactors,
    attribute_change,
    coordinate_fixed_point,
    coordinate_threshold,
    expected_loss,
    gordon_threshold,
    larsen_threshold,
    moreau_path,
    predict_from_measures,
    predict_on_path,
    predict_on_path_with_interval,
    predict_threshold,
    predict_with_interval,
    proximal_path,
    subspace_drop,
    threshold_factors,
    threshold_from_factors,
)

# Eigenvalues, spectral densities and functions of them
from landscape.spectra import (
    Eigenpairs,
    Estimate,
    GradientSpectrum,
    SpectralMeasure,
    Spectrum,
    Tridiagonal,
    decay_exponent,
    dense_spectrum,
    diagonal_estimates,
    effective_dimension,
    effective_rank,
    eigenpairs,
    gauss_newton_rows,
    gradient_shares,
    gradient_spectrum,
    hutch_plus_plus,
    hutchinson,
    jackknifed,
    lanczos,
    lanczos_many,
    log_determinant,
    mean_of,
    negative_mass,
    outliers,
    participation_ratio,
    slq,
    spectral_density,
    spectral_measure,
    spectrum_of_matrix,
    spectrum_of_rows,
    squared_frobenius,
    subset_spectrum,
    trace,
    with_quadrature_error,
    xtrace,
)

# Slices, curves, sharpness and basin width
from landscape.surfaces import (
    AffineSpan,
    AngularWidth,
    BasinWidth,
    Bezier,
    PrincipalDirections,
    Slice,
    StepRounding,
    WorstCaseSharpness,
    affine_span,
    angular_width,
    average_sharpness,
    basin_width,
    curvature_scaled,
    evaluate_slice,
    group_normalised,
    hessian_ratio,
    loss_barrier,
    low_loss_curve,
    orthonormalised,
    principal_directions,
    quadratic_model,
    random_directions,
    refined_axes,
    roughness,
    step_rounding,
    straight_line,
    symmetric_axis,
    viewpoints_on_sphere,
    worst_case_sharpness,
)
