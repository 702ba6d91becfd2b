import math

import numpy as np
import pytest
import torch

from landscape import (
    DenseOperator,
    SpectralMeasure,
    decay_exponent,
    effective_dimension,
    effective_rank,
    eigenpairs,
    lanczos,
    log_determinant,
    negative_mass,
    outliers,
    participation_ratio,
    slq,
    spectral_density,
    spectral_measure,
    trace,
    with_quadrature_error,
)

SIZE = 60


@pytest.fixture(scope="module")
def operator() -> DenseOperator:
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(SIZE, SIZE, generator=random, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(matrix)
    return DenseOperator(rotation * (torch.arange(1, SIZE + 1) ** -1.0 - 0.05) @ rotation.T)


@pytest.fixture(scope="module")
def measure(operator: DenseOperator) -> SpectralMeasure:
    return slq(operator, 40, 30)


def eigenvalues(operator: DenseOperator) -> np.ndarray:
    return torch.linalg.eigvalsh(operator.matrix).numpy()


def test_rows_of_weights_sum_to_the_size(measure: SpectralMeasure) -> None:
    assert measure.nodes.shape == measure.weights.shape == (40, 30)
    np.testing.assert_allclose(measure.weights.sum(axis=1), SIZE, rtol=1e-12)


@pytest.mark.parametrize("f", [lambda x: x, lambda x: x**2, np.exp, lambda x: np.maximum(x, 0) / (np.maximum(x, 0) + 0.1)])
def test_traces_are_within_four_standard_errors(operator: DenseOperator, measure: SpectralMeasure, f) -> None:
    estimate = trace(measure, f)
    assert abs(estimate.value - f(eigenvalues(operator)).sum()) < 4 * estimate.stderr
    assert estimate.stderr < 0.2 * abs(estimate.value)


def test_a_diagonal_operator_has_its_exact_trace_from_one_probe() -> None:
    # Signs square to one, so a diagonal has no variance.
    diagonal = torch.linspace(-1, 3, 20, dtype=torch.float64)
    estimate = trace(slq(DenseOperator(torch.diag(diagonal)), 1, 20), lambda x: x**3)
    assert estimate.value == pytest.approx(float((diagonal**3).sum()), rel=1e-12)
    assert math.isnan(estimate.stderr)


def test_standard_errors_are_the_spread_over_seeds(operator: DenseOperator) -> None:
    estimates = [trace(slq(operator, 10, 8, seed), np.abs) for seed in range(60)]
    spread = np.std([e.value for e in estimates], ddof=1)
    claimed = math.sqrt(np.mean([e.stderr**2 for e in estimates]))
    # A standard deviation from 60 values has a relative error of about 9 %.
    assert 0.7 < spread / claimed < 1.3


def test_the_density_integrates_to_one_and_its_moments_are_the_traces(measure: SpectralMeasure) -> None:
    sigma = 0.05
    grid = np.linspace(-1, 2, 3001)
    values, stderr = spectral_density(measure, grid, sigma)
    assert values.shape == stderr.shape == grid.shape
    step = grid[1] - grid[0]
    assert values.sum() * step == pytest.approx(1, abs=1e-10)
    assert (values * grid).sum() * step == pytest.approx(trace(measure, lambda x: x).value / SIZE, abs=1e-10)
    second = trace(measure, np.square).value / SIZE + sigma**2
    assert (values * grid**2).sum() * step == pytest.approx(second, abs=1e-10)


def test_the_density_is_within_its_error_of_the_exact_one(operator: DenseOperator, measure: SpectralMeasure) -> None:
    sigma, grid = 0.1, np.linspace(-0.3, 1.2, 30)
    bumps = np.exp(-0.5 * ((grid[:, None] - eigenvalues(operator)) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    values, stderr = spectral_density(measure, grid, sigma)
    assert (np.abs(values - bumps.mean(axis=1)) < 4 * stderr + 1e-6).all()


def test_negative_mass_is_the_share_of_negative_eigenvalues(operator: DenseOperator, measure: SpectralMeasure) -> None:
    exact = np.maximum(-eigenvalues(operator), 0).sum() / np.abs(eigenvalues(operator)).sum()
    estimate = negative_mass(measure)
    assert abs(estimate.value - exact) < 4 * estimate.stderr
    assert 0 < estimate.stderr < 0.1
    identity, zero = torch.eye(5, dtype=torch.float64), torch.zeros(5, 5, dtype=torch.float64)
    assert negative_mass(slq(DenseOperator(-identity), 2, 5)).value == 1
    assert negative_mass(slq(DenseOperator(zero), 2, 5)).value == 0


def test_effective_dimension_counts_the_eigenvalues_above_the_ridge() -> None:
    measure = slq(DenseOperator(torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0, -1.0], dtype=torch.float64))), 3, 5)
    assert effective_dimension(measure, 1e-9).value == pytest.approx(3, rel=1e-6)
    assert effective_dimension(measure, 1.0).value == pytest.approx(1.5)
    with pytest.raises(ValueError, match="kappa must be positive"):
        effective_dimension(measure, 0)


def test_an_early_end_is_padded_with_weight_zero_at_nodes_where_f_is_safe() -> None:
    measure = slq(DenseOperator(2 * torch.eye(6, dtype=torch.float64)), 2, 4)
    np.testing.assert_allclose(measure.weights, [[6]] * 2)
    assert trace(measure, np.log).value == pytest.approx(6 * math.log(2))


def test_one_vectors_measure_gives_its_quadratic_forms(operator: DenseOperator) -> None:
    g = torch.randn(SIZE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    measure = spectral_measure(operator, g, SIZE)
    shifted = operator.matrix + 0.5 * torch.eye(SIZE, dtype=torch.float64)
    assert measure.weights.sum() == pytest.approx(float(g @ g), rel=1e-12)
    exact = float(g @ torch.linalg.solve(shifted, g))
    assert trace(measure, lambda x: 1 / (x + 0.5)).value == pytest.approx(exact, rel=1e-10)


def test_gauss_quadrature_is_exact_to_degree_2m_minus_1(operator: DenseOperator) -> None:
    g = torch.ones(SIZE, dtype=torch.float64)
    moment = g
    for _ in range(7):
        moment = operator.matrix @ moment
    rule = spectral_measure(operator, g, 4)
    assert trace(rule, lambda x: x**7).value == pytest.approx(float(g @ moment), rel=1e-12)


def test_more_probes_keep_the_first_ones(operator: DenseOperator) -> None:
    few, many = slq(operator, 2, 5, seed=3), slq(operator, 4, 5, seed=3)
    np.testing.assert_array_equal(few.nodes, many.nodes[:2])
    assert not np.array_equal(few.nodes, slq(operator, 2, 5, seed=4).nodes)


def test_progress_counts_products_over_all_probes(operator: DenseOperator) -> None:
    seen: list[tuple[int, int]] = []
    slq(operator, 2, 3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 6), (4, 6), (6, 6)]  # both probes at once


def test_probes_are_the_same_in_float32(operator: DenseOperator) -> None:
    single = slq(DenseOperator(operator.matrix.float()), 3, 10)
    np.testing.assert_allclose(single.nodes, slq(operator, 3, 10).nodes, atol=1e-3)
    assert lanczos(operator, torch.ones(SIZE, dtype=torch.float64), 2).alphas.dtype == np.float64


def test_wrong_use_is_refused_with_the_numbers(operator: DenseOperator, measure: SpectralMeasure) -> None:
    with pytest.raises(ValueError, match="at least one probe, got 0"):
        slq(operator, 0, 5)
    with pytest.raises(ValueError, match="sigma must be positive"):
        spectral_density(measure, np.zeros(1), 0.0)


def test_an_exact_measure_has_no_errors() -> None:
    measure = SpectralMeasure.of_eigenvalues(np.array([4.0, 2.0, 1.0, -1.0]))
    for estimate, value in ((trace(measure), 6), (negative_mass(measure), 1 / 8), (participation_ratio(measure), 64 / 22)):
        assert estimate.value == pytest.approx(value)
        assert estimate.interval() == (estimate.value, estimate.value)
    assert spectral_density(measure, np.zeros(1), 0.1)[1] == 0


def test_ranks_of_a_flat_spectrum_count_it(operator: DenseOperator, measure: SpectralMeasure) -> None:
    flat = SpectralMeasure.of_eigenvalues(np.array([3.0] * 7 + [0.0] * 5))
    assert effective_rank(flat).value == pytest.approx(7)
    assert participation_ratio(flat).value == pytest.approx(7)
    zero = SpectralMeasure.of_eigenvalues(np.zeros(5))
    assert effective_rank(zero).value == participation_ratio(zero).value == 0
    exact = SpectralMeasure.of_eigenvalues(eigenvalues(operator))
    for rank in (effective_rank, participation_ratio):
        estimate = rank(measure)
        assert abs(estimate.value - rank(exact).value) < 4 * estimate.stderr


def test_log_determinants_are_those_of_the_matrix() -> None:
    matrix = torch.diag(torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64))
    expected = float(torch.logdet(matrix + 0.1 * torch.eye(3, dtype=torch.float64)))
    assert log_determinant(slq(DenseOperator(matrix), 2, 3), 0.1).value == pytest.approx(expected)
    with pytest.raises(ValueError, match="ridge must be positive"):
        log_determinant(SpectralMeasure.of_eigenvalues(np.ones(2)), 0)


def test_outliers_lie_beyond_the_bulk() -> None:
    bulk = np.random.default_rng(0).uniform(0.5, 2, 500)
    edge, count = outliers(SpectralMeasure.of_eigenvalues(np.concatenate([bulk, [900.0, 500.0, -800.0]])))
    assert count.value == 3
    assert 2 < edge < 500
    assert outliers(SpectralMeasure.of_eigenvalues(np.zeros(4)))[1].value == 0


def test_the_decay_exponent_of_a_power_law_lies_in_its_interval() -> None:
    covered = 0
    for seed in range(200):  # l = u^-s for uniform u: ranks then follow i^-s
        estimate = decay_exponent(np.random.default_rng(seed).uniform(size=60) ** -1.5)
        low, high = estimate.interval()
        covered += low < 1.5 < high
    assert 0.9 < covered / 200 < 0.99
    assert decay_exponent([i**-2.0 for i in range(1, 400)]).value == pytest.approx(2, rel=0.03)
    with pytest.raises(ValueError, match="at least 3 eigenvalues, all positive"):
        decay_exponent([1.0, 0.5, 0.0])


def test_known_pairs_are_taken_as_they_are_and_the_rest_is_sampled() -> None:
    values = np.array([100.0, 50.0, *np.linspace(-1, 1, 60)])
    rotation, _ = torch.linalg.qr(torch.randn(62, 62, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    big = DenseOperator(rotation @ torch.diag(torch.as_tensor(values)) @ rotation.T)
    known = eigenpairs(big, 2, 30)
    blind, seeing = slq(big, 10, 25), slq(big, 10, 25, known=known)
    assert trace(seeing).stderr < 0.2 * trace(blind).stderr
    for f in (np.abs, np.square):
        assert abs(trace(seeing, f).value - f(values).sum()) < 4 * trace(seeing, f).stderr
    everything = eigenpairs(big, 62, 62)
    assert trace(slq(big, 2, 5, known=everything)).interval() == pytest.approx((150, 150))


def test_what_lanczos_does_not_resolve_widens_the_error() -> None:
    values = 10 ** -np.linspace(0, 6, 200)
    rotation, _ = torch.linalg.qr(torch.randn(200, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    steep = DenseOperator(rotation @ torch.diag(torch.as_tensor(values)) @ rotation.T)
    kappa = 1e-4
    truth = (values / (values + kappa)).sum()
    for steps in (10, 20, 40):
        measure = slq(steep, 4, steps, known=eigenpairs(steep, 10, 40))
        estimate = with_quadrature_error(measure, lambda each: effective_dimension(each, kappa))
        assert abs(estimate.value - truth) < 3 * estimate.stderr
        assert measure.radau is not None
        low, high = effective_dimension(measure.radau, kappa), effective_dimension(measure, kappa)
        assert low.value - 3 * low.stderr < truth < high.value + 3 * high.stderr
    assert with_quadrature_error(SpectralMeasure.of_eigenvalues(values), trace).stderr == 0
    moments = with_quadrature_error(measure, trace)  # Gauss quadrature is exact for these
    assert moments.stderr == pytest.approx(trace(measure).stderr, rel=1e-6)


def test_rounding_is_no_bulk() -> None:
    rows = torch.randn(64, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:3] *= 60
    single = torch.linalg.eigvalsh((rows.T @ rows).float()).double().numpy()
    assert outliers(SpectralMeasure.of_eigenvalues(single))[1].value == 3
