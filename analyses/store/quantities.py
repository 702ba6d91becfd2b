"""Every quantity that a row may carry: its meaning, its unit, and what its interval or standard error is of.

A row refuses a name that is not here (`analyses.store.rows`), so that a misspelt quantity fails where it is made. Figures, captions and the
report take their words from here. The file imports nothing heavy: `--help` and figures may load it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Thresholds that runs measure.
K_STAR, K_LOSS, K_PART, K_HIGH, K_LOW = MEASURED = ("k_star", "k_loss", "k_part", "k_high", "k_low")
ON_LOSS = (K_STAR, K_LOSS)  # whose target is a training loss, of which predictions speak; the others aim at a validation metric
# Thresholds that are predicted without training.
K_PRED, K_GM, K_M0, K_M1 = "k_pred", "k_gm", "k_m0", "k_m1"
K_PATH_GM, K_PATH_M0, K_PATH_M1, K_PATH_T5 = "k_path_gm", "k_path_m0", "k_path_m1", "k_path_t5"
K_GORDON, K_LARSEN, K_BRACKET, K_BRACKET_PATH = "k_gordon", "k_larsen", "k_bracket", "k_bracket_path"
# Endings of a threshold's name.
OPEN = "_open"  # says why its interval has no end
OVER_RANK = "_over_rank"  # its number where the rank of the Gram matrix bounds it, so that it says little of the model
OF_HALF = "_half"  # the same from half of the examples

UNITS = ("", "nats", "parameters", "examples", "runs", "fraction", "steps", "products", "entries", "example gradients", "nats / |z|^2")
EXAMPLES, RUNS = "standard error over examples", "95 % bootstrap interval over runs"
JACKKNIFE = "95 % jackknife interval over examples, or 95 % t-interval over probes"
PROBES = "standard error and 95 % t-interval over probes; 0 where the spectrum is exact"


@dataclass(frozen=True)
class Quantity:
    """What the value of a row means.

    name: as in the column `quantity`. label: a few words for an axis or the head of a table. meaning: one phrase. unit: one of `UNITS`, ""
    for a pure number or where the rows say. interval: what `stderr`, `low` and `high` are of, "" where a row has none. x: what the column x
    holds, "" where a row has no place on a curve.

    Raises ValueError for a name, meaning or unit that is none.
    """

    name: str
    meaning: str
    unit: str = ""
    interval: str = ""
    label: str = ""
    x: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"a quantity's name has lower-case letters, digits and underscores (got: {self.name!r})")
        if not self.meaning or self.meaning.endswith("."):
            raise ValueError(f"the meaning of {self.name} must be a phrase without a full stop (got: {self.meaning!r})")
        if self.unit not in UNITS:
            raise ValueError(f"the unit of {self.name} must be one of {UNITS} (got: {self.unit!r})")
        if not self.label:
            object.__setattr__(self, "label", self.name.replace("_", " "))


TRAINING = (
    Quantity("loss", "mean loss", "nats", EXAMPLES),
    Quantity("accuracy", "share of right answers among the label words", "fraction", EXAMPLES),
    Quantity("decoded_accuracy", "share of right answers in the text that the model decodes greedily", "fraction", EXAMPLES),
    Quantity("exact_match", "share of decoded answers that equal a right one after normalisation", "fraction", EXAMPLES),
    Quantity("f1", "mean over answers of the harmonic mean of word precision and recall", "fraction", EXAMPLES, label="F1"),
    Quantity("rouge_l", "mean ROUGE-L of the decoded texts", "fraction", EXAMPLES, label="ROUGE-L"),
    Quantity("initial_loss", "mean loss of the untuned model", "nats", EXAMPLES),
    Quantity("initial_accuracy", "share of right answers of the untuned model", "fraction", EXAMPLES),
    Quantity("majority", "main metric of the most common answer of the training set, always given", "fraction", EXAMPLES),
    Quantity("random_guess", "main metric of answers drawn at random", "fraction", EXAMPLES),
    Quantity("chance", "the main metric, on the validation split, that needs no model, as recorded with the runs", "fraction", EXAMPLES),
    Quantity("plateau", "whether the training loss had stopped falling when the run ended (1) or not (0)"),
    Quantity("steps", "optimizer steps taken", "steps"),
    Quantity("example_gradients", "gradients of single examples that were taken; a matrix product counts two", "example gradients"),
    Quantity("learning_rate", "peak learning rate"),
    Quantity("pilot_loss", "watched loss after a pilot run of the learning-rate search", "nats", x="learning rate"),
    Quantity("accumulate", "parts that a batch was split into when memory ran out"),
    Quantity("diverged", "step at which training diverged", "steps"),
    Quantity("residual_gradient", "norm of the gradient of the mean training loss in the tuned entries at the end"),
    Quantity("k_head", "parameters of a trained classification head, beside k", "parameters"),
    Quantity("requested_k", "k that was asked for; whole units may not fill it", "parameters"),
    Quantity("entries", "tuned entries in a group (a layer or a kind of tensor)", "entries"),
    Quantity("kept_prior", "1 if the label words' prior is the one stored with the model, not measured on it"),
    Quantity("failed", "1 for a run that failed; the note says why"),
)
SPECTRA = (
    Quantity("gradient_norm", "norm of the gradient at the point"),
    Quantity("symmetry_defect", "|u'Av - v'Au| / |A|_F for one random pair u, v; zero for a symmetric matrix A"),
    Quantity("determinism_defect", "|Av - Av again| / |Av|; zero where nothing is random"),
    Quantity("products", "most products with the matrix that the algorithm (the series) takes", "products"),
    Quantity("eigenvalue", "eigenvalues of the largest magnitudes", "nats / |z|^2", "stderr is the residual", x="rank"),
    Quantity("density", "spectral density, smoothed by a Gaussian", "", PROBES, x="eigenvalue"),
    Quantity("n_eff", "effective dimension sum l / (l + kappa) over positive eigenvalues", "", PROBES, "$N_{eff}$", x="ridge kappa"),
    Quantity("top_alignment", "share of |g|^2 along the top eigenvectors up to a rank", "fraction", x="rank"),
    Quantity("alignment", "share of |g|^2 along all directions with an eigenvalue of at least x", "fraction", x="eigenvalue"),
    Quantity("trace", "sum of the eigenvalues", "nats / |z|^2", PROBES),
    Quantity("squared_frobenius", "sum of the squared eigenvalues", "", PROBES),
    Quantity("negative_mass", "the negative eigenvalues' share of sum |l|", "fraction", PROBES),
    Quantity("effective_rank", "exponential of the entropy of |l| / sum |l|", "", PROBES),
    Quantity("participation_ratio", "(sum |l|)^2 / sum l^2", "", PROBES),
    Quantity("outliers", "number of eigenvalues outside the bulk", "", PROBES),
    Quantity("bulk_edge", "eigenvalue at which the bulk ends", "nats / |z|^2"),
    Quantity("decay_exponent", "s of l_i ~ i^-s over the largest eigenvalues", "", "stderr of the fit", "decay of the top ten"),
    Quantity("log_determinant", "log det(A + ridge I); the ridge is the row's target", "", PROBES),
    Quantity("block_size", "tuned entries of a block (the group)", "entries", x="number of the block"),
    Quantity("block_trace", "trace of a block (the group)", "nats / |z|^2", PROBES, x="number of the block"),
    Quantity(
        "block_eigenvalue", "largest eigenvalue of a block (the group)", "nats / |z|^2", "stderr is the residual", x="number of the block"
    ),
)
SLICES = (
    Quantity("centre_loss", "training loss at the point that the slice goes through", "nats"),
    Quantity("theta_norm", "|theta|, the norm of the tuned entries' values at the point"),
    Quantity("z_norm", "distance of the point from the pretrained one"),
    Quantity("slice_reach", "how far the slice goes along an axis", x="number of the axis"),
    Quantity("slice_loss", "loss at a displacement", "nats", EXAMPLES, x="displacement"),
    Quantity("slice_accuracy", "share of right answers at a displacement", "fraction", EXAMPLES),
    Quantity("slice_quadratic", "quadratic model of the loss (gradient and Hessian at the centre) at a displacement", "nats"),
    Quantity("slice_hessian_ratio", "|lowest / highest eigenvalue| of the Hessian at a displacement", "", "stderr is from residuals"),
    Quantity("slice_place", "a point that the slice was laid through; the value is its step, or the number of its run"),
    Quantity("slice_place_loss", "training loss of a look of the trajectory itself, which lies off the slice", "nats", EXAMPLES),
    Quantity("off_plane", "largest difference between a look's own loss and that of its projection", "nats", EXAMPLES),
    Quantity("explained_variance", "share of the trajectory's variance along a component", "fraction", x="number of the component"),
    Quantity("roughness", "root mean square distance of the loss from the quadratic model, as a share of the slice's range", "fraction",
             "standard error over groups of examples"),
    Quantity("path_loss", "loss along a path between two runs", "nats", EXAMPLES, x="place from 0 to 1"),
    Quantity("path_accuracy", "share of right answers along a path between two runs", "fraction", EXAMPLES, x="place from 0 to 1"),
    Quantity("barrier", "how far the path's loss rises at most above the straight line between its ends' losses", "nats", EXAMPLES),
    Quantity("sharpness_average", "mean rise of the loss at a distance in random directions; the distance is the row's target", "nats",
             "standard error over directions"),
    Quantity("sharpness_worst", "highest rise that was found at a distance; the distance is the row's target", "nats",
             "stderr is the spread over ascents"),
    Quantity("basin_width", "distance to the basin's edge along random rays, over |theta|; the edge's height is the row's target", "",
             "standard error over rays"),
    Quantity("hessian_ratio", "|lowest / highest eigenvalue| of the Hessian", "", "stderr is from residuals"),
    Quantity("angular_dimension", "angular dimension of the Gauss-Newton quadratic's sub-level set (2107.05802)", "parameters", PROBES),
    Quantity("angular_dimension_of_loss", "lower bound on that of the loss itself, seen from random points |theta| away", "parameters",
             "standard error over draws"),
    Quantity("angular_dimension_from_start", "lower bound on that of the loss itself, seen from the pretrained point", "parameters",
             "standard error over draws"),
)  # fmt: skip
PREDICTIONS = (
    Quantity("rank_ceiling", "n (C - 1), which bounds the rank of the Gauss-Newton matrix and so every prediction"),
    Quantity("in_scope", "parameters in scope", "parameters"),
    Quantity("live_fraction", "share of the parameters in scope that the outputs depend on", "fraction"),
    Quantity("gram_eigenvalue", "eigenvalues of the Gauss-Newton matrix", "nats / |z|^2", x="rank"),
    Quantity("gradient_projection", "squared projection of the gradient on an eigenvector", x="rank"),
    Quantity("gradient_weight", "weight of the gradient's spectral measure at a node", x="node"),
    Quantity("path_example_gradients", "example gradients that the model's own proximal path took", "example gradients"),
    Quantity("linear_path_example_gradients", "example gradients that the linearised model's proximal path took", "example gradients"),
    Quantity("placed_initial_loss", "training loss of the untuned model, in a prediction of one placement", "nats"),
    Quantity("placed_loss", "training loss that the quadratic at the pretrained point reaches in one placement", "nats"),
    Quantity("placed_residual", "relative residual of the conjugate gradients that found it"),
    Quantity("path_envelope", "Moreau envelope of the linearised model's training loss along its path", "nats", x="k"),
    Quantity("predicted_loss", "training loss that the quadratic at the pretrained point expects (T1)", "nats", x="k"),
)
_MEASURED = (
    Quantity(K_STAR, "the k at which trained APET runs reach the target training loss: where a robust line through their gaps to it, on "
             "log k, crosses zero", "parameters", RUNS, "k*"),
    Quantity(K_LOSS, "the k at which APET runs reach a given training loss", "parameters", RUNS, "given loss"),
    Quantity(K_PART, "the k at which APET runs reach a part of full fine-tuning's metric", "parameters", RUNS, "part of full"),
    Quantity(K_HIGH, "the k at which APET runs reach full fine-tuning's metric less a margin", "parameters", RUNS, "high threshold"),
    Quantity(K_LOW, "the k at which APET runs reach a metric above chance", "parameters", RUNS, "low threshold"),
)  # fmt: skip
_PREDICTED = (
    Quantity(K_PRED, "k by the quadratic at the pretrained point (T3)", "parameters", JACKKNIFE, "T3 at the pretrained point"),
    Quantity(K_GM, "sqrt(m0 m1) along the Moreau path of the model's linearisation", "parameters", JACKKNIFE, "path, gm"),
    Quantity(K_M0, "N_eff of the pretrained point's spectrum at the linearised path's ridge", "parameters", JACKKNIFE, "path, m0"),
    Quantity(K_M1, "T3 of the quadratic that touches the linearised loss at its proximal point", "parameters", JACKKNIFE, "path, m1"),
    Quantity(K_PATH_GM, "sqrt(m0 m1) along the proximal path of the model itself", "parameters", JACKKNIFE, "own path, gm"),
    Quantity(K_PATH_M0, "N_eff of the pretrained point's spectrum at the own path's ridge", "parameters", JACKKNIFE, "own path, m0"),
    Quantity(K_PATH_M1, "N_eff of the proximal point's spectrum on the model's own path", "parameters", JACKKNIFE, "own path, m1"),
    Quantity(K_PATH_T5, "single entries that T5 expects along the model's own path", "parameters", "", "own path, T5"),
    Quantity(K_GORDON, "Gordon's lower bound, which speaks of uniformly random subspaces", "parameters", "standard error over draws",
             "Gordon"),
    Quantity(K_LARSEN, "N_eff(2 eps / R^2) of Larsen et al. (arXiv 2107.05802)", "parameters", "", "Larsen"),
    Quantity(K_BRACKET, "the linearised path's gm, with Gordon's bound and m1 as ends, for uniformly random subspaces", "parameters",
             "low and high are the two bounds"),
    Quantity(K_BRACKET_PATH, "the linearised path's m1, with the own path's gm and the linearised path's m0 as ends", "parameters",
             "low and high are the two bounds"),
)  # fmt: skip
THRESHOLDS = (
    *_MEASURED,
    *_PREDICTED,
    *(Quantity(q.name + OPEN, f"why {q.name} has no interval end; the value is how many runs would close it, at k from low to high", "runs")
      for q in (*_MEASURED, *_PREDICTED[:2])),
    *(Quantity(q.name + OVER_RANK, f"{q.name} where it is over 30 % of the rank ceiling, which bounds it whatever the model", q.unit)
      for q in _PREDICTED if q.name not in (K_LARSEN, K_BRACKET_PATH)),
    *(Quantity(name + OF_HALF, f"{name} from half of the examples", "parameters") for name in (K_PRED, K_GM)),
    Quantity("target_loss", "the training loss aimed at, the same for the measured and the predicted threshold of a model", "nats",
             label="target"),
    Quantity("target_metric", "validation metric aimed at", "fraction"),
    Quantity("target_share", "the target as a share of full fine-tuning's improvement over the untuned model", "fraction"),
    Quantity("runs", "APET runs that the measured threshold rests on", "runs"),
    Quantity("runs_diverged", "training runs that diverged, left out", "runs"),
    Quantity("slope", "slope of the line (or probit) through the gaps, over log k", "", "standard error over runs"),
    Quantity("gap", "how far a run is beyond the target: log target loss - log loss, or logit metric - logit target", x="k"),
    Quantity("mapped_loss", "training loss at which full fine-tuning crosses a metric target", "nats",
             "95 % bootstrap interval over full fine-tuning's states"),
    Quantity("map_offset", "APET's metric over full fine-tuning's at equal training loss, in logits", "", "standard error of the fit"),
    Quantity("map_p", "two-sided p value of map_offset against zero"),
)  # fmt: skip
FINDINGS = (
    Quantity("measured_change", "log k*(small) - log k*(large) as measured", "", RUNS, "measured"),
    Quantity("explained_total", "log k*(small) - log k*(large) as predicted (m1)", "", JACKKNIFE, "predicted"),
    Quantity("explained_spectrum", "part of the predicted change that the spectrum's shape makes", "", JACKKNIFE, "spectrum"),
    Quantity("explained_alignment", "part that the gradient's alignment with the spectrum makes", "", JACKKNIFE, "alignment"),
    Quantity("explained_gap", "part that the gap to the target makes", "", JACKKNIFE, "gap"),
    Quantity("explained_live", "part that the share of live entries makes", "", JACKKNIFE, "live share"),
    Quantity("explain_verdict", "1 explained, 0 not explained; the status says which, the note why"),
    Quantity("placement_loss", "training loss of a placement as a share of the untuned model's", "fraction"),
    Quantity("placement_spread", "standard deviation of placement_loss over seeds", "fraction", "jackknife error", x="number of seeds"),
    Quantity("placement_correlation", "Spearman's correlation of measured and predicted placement_loss", x="number of seeds"),
    Quantity("quadratic_k_star", "exact threshold of a quadratic, from one QR decomposition", "parameters", "standard error over seeds"),
    Quantity("quadratic_k", "threshold of a quadratic by a predictor (the series)", "parameters"),
)


def _table(*groups: tuple[Quantity, ...]) -> dict[str, Quantity]:
    quantities = [quantity for group in groups for quantity in group]
    table = {quantity.name: quantity for quantity in quantities}
    if len(table) < len(quantities):
        names = [quantity.name for quantity in quantities]
        raise ValueError(f"these quantities are registered twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")
    return table


QUANTITIES = _table(TRAINING, SPECTRA, SLICES, PREDICTIONS, THRESHOLDS, FINDINGS)
