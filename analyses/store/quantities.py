"""The registry of quantities: the meaning, unit and interval of every number that a row may hold.

A row refuses an unregistered name (`analyses.store.rows`), so a misspelt quantity fails where it is made. Figures, captions, the report and
the documentation take their words from the registry. This module has no heavy imports, so `--help` and figures can load it.
"""

from __future__ import annotations

from analyses.store.quantity import BOUNDS, DRAWS, EXAMPLES, FROM_RESIDUALS, JACKKNIFE, PROBES, RESIDUAL, RUNS, SAMPLING, Quantity

# Thresholds measured by runs.
K_STAR, K_LOSS, K_PART, K_HIGH, K_LOW, K_METRIC = MEASURED = ("k_star", "k_loss", "k_part", "k_high", "k_low", "k_metric")
ON_LOSS = (K_STAR, K_LOSS)  # thresholds of a training loss, which can be predicted; the others have a validation metric as target
# Thresholds predicted without training.
K_PRED, K_GM, K_M0, K_M1 = "k_pred", "k_gm", "k_m0", "k_m1"
K_PATH_GM, K_PATH_M0, K_PATH_M1, K_PATH_T5 = "k_path_gm", "k_path_m0", "k_path_m1", "k_path_t5"
K_GORDON, K_LARSEN, K_BRACKET, K_BRACKET_PATH = "k_gordon", "k_larsen", "k_bracket", "k_bracket_path"
SLOPE, BODY_SLOPE = "scale_slope", "scale_slope_without_embeddings"  # of a number over model size
CLAIM, CLAIM_NEEDS = "claim", "claim_needs"  # a verdict of the findings, and what would decide it
# Suffixes of a threshold's name.
OPEN = "_open"  # the reason for an open interval, and the runs that would close it
OVER_RANK = "_over_rank"  # the threshold if the rank of the Gram matrix bounds it, so that it depends little on the model
OF_HALF = "_half"  # the threshold predicted from half of the examples

TRAINING = (
    Quantity(
        "loss",
        "mean loss over examples: cross-entropy (over tokens, if the task asks for text), or for a regression the squared "
        "error in units of the variance of the training targets",
        "nats",
        EXAMPLES,
    ),
    Quantity("accuracy", "share of examples whose right answer ranks first among the label words or classes", "fraction", EXAMPLES),
    Quantity("decoded_accuracy", "share of examples whose greedily decoded text begins with the right answer", "fraction", EXAMPLES),
    Quantity("exact_match", "share of decoded answers that equal a right answer after normalisation", "fraction", EXAMPLES),
    Quantity(
        "f1",
        "harmonic mean of precision and recall: of class 1 for two classes, as a mean over classes (macro) for more, and of the "
        "words of a decoded answer as a mean over examples",
        "fraction",
        EXAMPLES,
        label="F1",
    ),
    Quantity("rouge_l", "mean ROUGE-L of the decoded texts", "fraction", EXAMPLES, label="ROUGE-L"),
    Quantity(
        "matthews",
        "Matthews correlation coefficient of predicted and right labels; 0 for constant predictions",
        "",
        EXAMPLES,
        "Matthews correlation",
    ),
    Quantity(
        "pearson", "Pearson correlation of predicted and right numbers; 0 for constant predictions", "", EXAMPLES, "Pearson correlation"
    ),
    Quantity(
        "spearman",
        "Spearman rank correlation of predicted and right numbers; 0 for constant predictions",
        "",
        EXAMPLES,
        "Spearman correlation",
    ),
    Quantity("initial_loss", "mean loss of the untuned model", "nats", EXAMPLES),
    Quantity("initial_accuracy", "accuracy of the untuned model", "fraction", EXAMPLES),
    Quantity("initial_f1", "F1 of the untuned model's labels", "fraction", EXAMPLES, "initial F1"),
    *(
        Quantity(f"initial_{name}", f"{name.capitalize()} correlation of the untuned model", "", EXAMPLES)
        for name in ("matthews", "pearson", "spearman")
    ),
    Quantity(
        "majority",
        "main metric of a baseline that always gives the most common answer of the training set (for a regression, the mean)",
        "",
        EXAMPLES,
    ),
    Quantity("random_guess", "main metric of a baseline that guesses answers at random", "", EXAMPLES),
    Quantity("chance", "main metric of the better baseline without a model (most common answer or random guess)", "", EXAMPLES),
    Quantity("plateau", "1 if the monitored loss no longer fell when the run ended, else 0"),
    Quantity("steps", "number of optimizer steps", "steps"),
    Quantity("example_gradients", "number of gradients of single examples; a matrix product counts two per example", "example gradients"),
    Quantity("learning_rate", "peak learning rate"),
    Quantity("pilot_loss", "monitored loss after a pilot run of the learning-rate search", "nats", x="learning rate"),
    Quantity("accumulate", "number of parts per batch after memory ran out"),
    Quantity("diverged", "step at which training diverged and the run ended", "steps"),
    Quantity(
        "residual_gradient",
        "norm of the gradient of the mean training loss in the tuned entries, at the end, "
        "without early stopping and if all training examples are evaluated",
    ),
    Quantity("without_embeddings", "number of the model's parameters without token embeddings and output head", "parameters"),
    Quantity("k_head", "number of trained parameters of a classification head, not included in k", "parameters"),
    Quantity(
        "requested_k",
        "requested k; whole units may tune fewer entries, and an option of another method gives the nearest number",
        "parameters",
    ),
    Quantity("entries", "number of tuned entries in a layer or in a kind of tensor (the column group)", "entries"),
    Quantity("prior_stderr", "largest standard error of the label words' prior, less its mean over the classes", "nats"),
    Quantity("kept_prior", "1 if the label words' prior was stored with the model instead of measured on it"),
    Quantity("failed", "1 for a run that failed; the note gives the reason"),
)
SPECTRA = (
    Quantity("gradient_norm", "norm of the gradient at the point"),
    Quantity("symmetry_defect", "|u'Av - v'Au| / |A|_F for one random pair u, v; 0 for a symmetric matrix A"),
    Quantity("determinism_defect", "relative difference of two equal products Av; 0 if the computation is deterministic"),
    Quantity("products", "largest number of products with the matrix that the algorithm (the column series) takes", "products"),
    Quantity("eigenvalue", "eigenvalue, ranked by magnitude", "nats / |z|^2", RESIDUAL, x="rank"),
    Quantity("density", "spectral density, smoothed by a Gaussian kernel", "", PROBES, x="eigenvalue"),
    Quantity("n_eff", "effective dimension: sum of l / (l + kappa) over positive eigenvalues l", "", PROBES, "$N_{eff}$", x="ridge kappa"),
    Quantity("top_alignment", "share of |g|^2 along the top eigenvectors up to a rank", "fraction", x="rank"),
    Quantity("alignment", "share of |g|^2 along all eigenvectors whose eigenvalue is at least x", "fraction", x="eigenvalue"),
    Quantity("trace", "sum of the eigenvalues", "nats / |z|^2", PROBES),
    Quantity("squared_frobenius", "sum of the squared eigenvalues", "", PROBES),
    Quantity("negative_mass", "share of the negative eigenvalues in the sum of |l|", "fraction", PROBES),
    Quantity("effective_rank", "exponential of the entropy of |l| / sum |l|", "", PROBES),
    Quantity("participation_ratio", "(sum |l|)^2 / sum l^2", "", PROBES),
    Quantity("outliers", "number of eigenvalues outside the bulk", "", PROBES),
    Quantity("bulk_edge", "eigenvalue at which the bulk ends", "nats / |z|^2"),
    Quantity("decay_exponent", "exponent s of l_i ~ i^-s, fitted to the largest positive eigenvalues", "", "standard error of the fit",
             "decay of the top ten"),
    Quantity("log_determinant", "log det(A + ridge I); the column target holds the ridge", "", PROBES),
    Quantity("block_size", "number of tuned entries in a block (the column group)", "entries", x="number of the block"),
    Quantity("block_trace", "trace of a block (the column group)", "nats / |z|^2", PROBES, x="number of the block"),
    Quantity("block_eigenvalue", "largest eigenvalue of a block (the column group)", "nats / |z|^2", RESIDUAL, x="number of the block"),
)  # fmt: skip
SLICES = (
    Quantity("centre_loss", "training loss at the centre of the slice", "nats"),
    Quantity("theta_norm", "|theta|, the norm of the tuned entries' values at the centre"),
    Quantity("z_norm", "distance of the centre from the initial point"),
    Quantity("slice_reach", "largest displacement along an axis", x="number of the axis"),
    Quantity("slice_loss", "loss at a displacement from the centre", "nats", EXAMPLES, x="displacement"),
    Quantity("slice_accuracy", "accuracy at a displacement from the centre", "fraction", EXAMPLES),
    Quantity("slice_quadratic", "quadratic model of the loss (gradient and Hessian at the centre) at a displacement", "nats"),
    Quantity("slice_hessian_ratio", "|lowest / highest eigenvalue| of the Hessian at a displacement", "", FROM_RESIDUALS),
    Quantity("slice_place", "a point that defines the slice, at its projection; the value is its training step or the number of its run"),
    Quantity("slice_place_loss", "training loss at a recorded point of the trajectory itself, which lies off the slice", "nats", EXAMPLES),
    Quantity("off_plane", "largest difference between the loss at a recorded point of the trajectory and at its projection", "nats",
             EXAMPLES),
    Quantity("explained_variance", "share of the trajectory's variance along a principal component", "fraction",
             x="number of the component"),
    Quantity("roughness", "root mean square difference between the loss and its quadratic model, as a share of the slice's range of losses",
             "fraction", "standard error over groups of examples"),
    Quantity("path_loss", "loss along a path between two final points", "nats", EXAMPLES, x="position from 0 to 1"),
    Quantity("path_accuracy", "accuracy along a path between two final points", "fraction", EXAMPLES, x="position from 0 to 1"),
    Quantity("barrier", "largest rise of the loss on a path above the straight line between the losses of its ends", "nats", EXAMPLES),
    Quantity("sharpness_average", "mean rise of the loss at a distance in random directions; the column target holds the distance", "nats",
             "standard error over directions"),
    Quantity("sharpness_worst", "largest rise of the loss found within a distance; the column target holds the distance", "nats",
             "stderr is the standard deviation over ascents"),
    Quantity("basin_width", "distance / |theta| at which the loss has risen by a height (the column target), mean over random rays", "",
             "standard error over rays"),
    Quantity("hessian_ratio", "|lowest / highest eigenvalue| of the Hessian", "", FROM_RESIDUALS),
    Quantity("angular_dimension", "angular dimension of a sub-level set of the Gauss-Newton quadratic, seen from |theta| away (arXiv "
             "2107.05802)", "parameters", PROBES),
    Quantity("angular_dimension_of_loss", "lower bound on the angular dimension of a sub-level set of the loss, seen from random points "
             "|theta| away", "parameters", DRAWS),
    Quantity("angular_dimension_from_start", "lower bound on the angular dimension of a sub-level set of the loss, seen from the initial "
             "point", "parameters", DRAWS),
)  # fmt: skip
PREDICTIONS = (
    Quantity("rank_ceiling", "n (C - 1) for n labels of C classes: an upper bound on the rank of the Gauss-Newton matrix and on every "
             "prediction"),
    Quantity("in_scope", "number of parameters in scope", "parameters"),
    Quantity("live_fraction", "share of the parameters in scope that are active: the outputs depend on them", "fraction",
             label="active fraction"),
    Quantity("gram_eigenvalue", "eigenvalue of the Gauss-Newton matrix, from the Gram matrix", "nats / |z|^2", x="rank"),
    Quantity("gradient_projection", "squared projection of the gradient onto an eigenvector", x="rank"),
    Quantity("gradient_weight", "weight of the gradient's spectral measure at a quadrature node", x="node"),
    Quantity("path_example_gradients", "number of example gradients computed for the model's own proximal path", "example gradients"),
    Quantity("linear_path_example_gradients", "number of example gradients computed for the linearised model's proximal path",
             "example gradients"),
    Quantity("placed_initial_loss", "training loss of the untuned model, in a prediction for one placement", "nats"),
    Quantity("placed_loss", "training loss that the quadratic at the initial point reaches in one placement", "nats"),
    Quantity("placed_residual", "relative residual of the conjugate gradients that computed placed_loss"),
    Quantity("path_envelope", "Moreau envelope of the linearised model's training loss along its proximal path", "nats", x="k"),
    Quantity("predicted_loss", "training loss that the quadratic at the initial point predicts (T1)", "nats", x="k"),
)  # fmt: skip
_MEASURED = (
    Quantity(K_STAR, "k at which the training loss of APET runs reaches the target: the zero of a robust line through the gaps of the runs "
             "over log k", "parameters", RUNS, "k*"),
    Quantity(K_LOSS, "k at which APET runs reach a given training loss", "parameters", RUNS, "given loss"),
    Quantity(K_PART, "k at which APET runs reach a given share of full fine-tuning's metric", "parameters", RUNS, "part of full"),
    Quantity(K_HIGH, "k at which APET runs reach full fine-tuning's metric less a margin", "parameters", RUNS, "high threshold"),
    Quantity(K_LOW, "k at which APET runs reach chance plus a given share of the distance to 1", "parameters", RUNS, "low threshold"),
    Quantity(K_METRIC, "k at which APET runs reach a given value of the metric", "parameters", RUNS, "given metric"),
)  # fmt: skip
_PREDICTED = (
    Quantity(K_PRED, "k at which the quadratic at the initial point reaches the target (T3)", "parameters", JACKKNIFE,
             "T3 at the initial point"),
    Quantity(K_GM, "sqrt(m0 m1) on the Moreau path of the linearised model", "parameters", JACKKNIFE, "path, gm"),
    Quantity(K_M0, "N_eff of the initial point's spectrum at the ridge of the linearised model's path", "parameters", JACKKNIFE,
             "path, m0"),
    Quantity(K_M1, "T3 on the quadratic tangent to the linearised model's loss at its proximal point", "parameters", JACKKNIFE,
             "path, m1"),
    Quantity(K_PATH_GM, "sqrt(m0 m1) on the proximal path of the model itself", "parameters", JACKKNIFE, "own path, gm"),
    Quantity(K_PATH_M0, "N_eff of the initial point's spectrum at the ridge of the model's own path", "parameters", JACKKNIFE,
             "own path, m0"),
    Quantity(K_PATH_M1, "N_eff of the spectrum at the proximal point of the model's own path", "parameters", JACKKNIFE, "own path, m1"),
    Quantity(K_PATH_T5, "number of single entries that T5 predicts on the model's own path", "parameters", "", "own path, T5"),
    Quantity(K_GORDON, "Gordon's lower bound, for uniformly random subspaces", "parameters", DRAWS, "Gordon"),
    Quantity(K_LARSEN, "N_eff(2 eps / R^2) of Larsen et al. (arXiv 2107.05802), for slack eps above the quadratic's minimum at distance R",
             "parameters", "", "Larsen"),
    Quantity(K_BRACKET, "gm on the linearised model's path; the bounds are Gordon's and m1, for uniformly random subspaces", "parameters",
             BOUNDS),
    Quantity(K_BRACKET_PATH, "m1 on the linearised model's path; the bounds are gm on the model's own path and m0 on the linearised "
             "model's path", "parameters", BOUNDS),
)  # fmt: skip
THRESHOLDS = (
    *_MEASURED,
    *_PREDICTED,
    *(Quantity(q.name + OPEN, f"number of further runs, at k from low to high, that would close the open interval of {q.name}; the note "
               "gives the reason", "runs")
      for q in (*_MEASURED, *_PREDICTED[:2])),
    *(Quantity(q.name + OVER_RANK, f"{q.name} if it exceeds 30 % of the rank ceiling, which then bounds it for any model", q.unit)
      for q in _PREDICTED if q.name not in (K_LARSEN, K_BRACKET_PATH)),
    *(Quantity(name + OF_HALF, f"{name} predicted from half of the examples", "parameters") for name in (K_PRED, K_GM)),
    Quantity("target_loss", "training loss to reach, shared by the measured and the predicted threshold of a model", "nats",
             label="target"),
    Quantity("target_metric", "validation metric to reach"),
    Quantity("target_share", "target as a share of full fine-tuning's improvement over the untuned model", "fraction"),
    Quantity("runs", "number of APET runs behind the measured threshold", "runs"),
    Quantity("runs_diverged", "number of training runs that diverged and are left out", "runs"),
    Quantity("slope", "slope of the line (or probit) through the gaps over log k", "", "standard error over runs"),
    Quantity("gap", "distance of a run beyond the target: log target loss - log loss, or logit metric - logit target (the logit of "
             "(1 + r) / 2 for a correlation r)", x="k"),
    Quantity("mapped_loss", "training loss at which full fine-tuning crosses a metric target", "nats",
             "95 % bootstrap interval over states of full fine-tuning"),
    Quantity("map_offset", "APET's metric less full fine-tuning's at equal training loss, in logits", "", "standard error of the fit"),
    Quantity("map_p", "two-sided p value of map_offset against zero"),
)  # fmt: skip
FINDINGS = (
    Quantity("measured_change", "log k*(small) - log k*(large), measured", "", RUNS, "measured"),
    Quantity("explained_total", "log k*(small) - log k*(large), predicted (m1)", "", JACKKNIFE, "predicted"),
    Quantity("explained_spectrum", "part of the predicted change due to the shape of the spectrum", "", JACKKNIFE, "spectrum"),
    Quantity("explained_alignment", "part of the predicted change due to the alignment of gradient and spectrum", "", JACKKNIFE,
             "alignment"),
    Quantity("explained_gap", "part of the predicted change due to the gap between loss and target", "", JACKKNIFE, "gap"),
    Quantity("explained_live", "part of the predicted change due to the share of active entries", "", JACKKNIFE, "active share"),
    Quantity("explain_verdict", "1 if the prediction explains the measured change, 0 if not; the status is the verdict, the note gives the "
             "reason"),
    Quantity("placement_loss", "final training loss of a placement, as a share of the untuned model's", "fraction"),
    Quantity("placement_spread", "standard deviation of placement_loss over position seeds", "fraction", "jackknife standard error",
             x="number of seeds"),
    Quantity("placement_correlation", "Spearman correlation of measured and predicted placement_loss", x="number of seeds"),
    Quantity("position_sd", "standard deviation of the main metric over positions of the tuned entries: the square root of the variance "
             "component of position seeds", "", SAMPLING, "sd over positions"),
    Quantity("train_sd", "standard deviation of the main metric over train seeds: the square root of their variance component plus the "
             "residual one", "", SAMPLING, "sd over train seeds"),
    Quantity("method_sd", "standard deviation of the main metric over parameter-efficient methods (means over seeds)", "", SAMPLING,
             "sd over methods"),
    Quantity("method_gap", "main metric of a method less the main metric of APET with as many parameters at random positions", "",
             "standard error and 95 % t-interval over seeds", "method less APET"),
    Quantity(SLOPE, "change of log y per change of log N, for models of N parameters; the column series names y, and for a threshold the "
             "column group is its target", "", SAMPLING, "slope over scale"),
    Quantity(BODY_SLOPE, f"{SLOPE} for models of N parameters without embeddings", "", SAMPLING),
    Quantity(CLAIM, "estimate that decides a claim (the column series) for one case (the column group); the status is the verdict, p is "
             "corrected for all cases of the claim, and the note is the sentence", "", SAMPLING),
    Quantity(CLAIM_NEEDS, "how many times as much data would decide a claim, if the estimate and the scatter stay; the note is the "
             "sentence"),
    Quantity("quadratic_k_star", "exact threshold of a quadratic, from one QR decomposition", "parameters", "standard error over seeds"),
    Quantity("quadratic_k", "threshold of a quadratic by a predictor (the column series)", "parameters"),
)  # fmt: skip


def _table(*groups: tuple[Quantity, ...]) -> dict[str, Quantity]:
    quantities = [quantity for group in groups for quantity in group]
    table = {quantity.name: quantity for quantity in quantities}
    if len(table) < len(quantities):
        names = [quantity.name for quantity in quantities]
        raise ValueError(f"the following quantities are registered twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")
    return table


QUANTITIES = _table(TRAINING, SPECTRA, SLICES, PREDICTIONS, THRESHOLDS, FINDINGS)
