"""Words that the figures and the report share: names of methods, captions, definitions."""

from __future__ import annotations

from analyses import runs
from analyses.method_facts import METHOD_WORDS
from analyses.store import QUANTITIES, quantities


def meaning(quantity: str) -> str:
    """Return the meaning of a quantity, in the words of the registry."""
    return QUANTITIES[quantity].meaning


def _listed(*names: str) -> str:
    """Return labels and meanings, as in "trace: sum of the eigenvalues; ..."."""
    return "; ".join(f"{QUANTITIES[name].label}: {meaning(name)}" for name in names)


MATRICES = {matrix.name: matrix.words for matrix in runs.MATRICES.values()}
DIRECTIONS = {direction.name: direction.words for direction in runs.DIRECTIONS.values()}

CAPTIONS = {
    "performance": (
        "Performance against the number k of tuned parameters (log scale). Each stack is one model, by size. The upper panels show the "
        "main metric on the validation set, with the chance level dotted. The lower panels show the training loss, with the target "
        "dash-dotted. Small "
        "points are runs and large points their mean. Bars are one standard error over runs, or over examples for a single run. Full "
        "fine-tuning is a horizontal line, because its k is the size of the model. Other methods are shown at their own k. Vertical lines "
        "are the measured k* (solid) and the predicted k (dashed), and in the upper panels the high threshold (dash-dotted) and the low "
        "threshold (dotted), with their 95 % intervals as bands. An arrowhead at the edge of a panel "
        "marks a censored threshold that lies beyond that side. The thin curve is the training loss that the quadratic at the pretrained "
        "point predicts (T1)."
    ),
    "methods": (
        "Main metric on the validation set over the number N of model parameters, one panel per task and family. Each method is shown at "
        "its largest number of tuned parameters, as a mean over seeds with one standard error; chance is dotted. The lower panels show "
        "the gap of each method: its main metric less the one of APET with as many parameters at random positions, with 95 % "
        "t-intervals. Methods are shifted slightly apart, so that their bars do not overlap."
    ),
    "positions": (
        "Spread over positions of the tuned entries against other spreads, over the number N of model parameters (log axes). Upper panels: "
        + _listed("position_sd", "train_sd", "method_sd")
        + ". Bars are 95 % intervals. Lower panels: the standard deviation of the final training loss, as a share of the untuned model's, "
        "over placements, measured and predicted by the quadratic at the pretrained point; bars are one standard error. A bar that reaches "
        "zero ends in an arrow, and an open arrow marks a spread of zero."
    ),
    "claims": (
        "Verdicts on the claims. Each line is one case with its estimate, 95 % interval and verdict; cases without an estimate are at the "
        "edge. p values of a claim are corrected for all of its cases."
    ),
    "cost": (
        "Cost in example gradients over the cost of one full fine-tuning run of the same model and setting (grey line), against the number "
        "N of model parameters (log axes). Points are means over runs; their bars reach from the cheapest to the most expensive run."
    ),
    "n_eff": (
        f"N_eff, the {meaning('n_eff')}, against the ridge kappa (log axes). Each model has a colour and a marker. Bands are one standard "
        "error. Several spectra of one model are separate lines."
    ),
    "thresholds": (
        "Thresholds over the number N of model parameters, one stack of panels per task and family (log axes). Top: number k of tuned "
        "parameters. Below: k / N, and k / N with N without token embeddings and output head if the rows state it. Bars are 95 % "
        "intervals. An arrow at an edge marks a censored threshold that lies beyond that side; it interrupts the line. The pale line is "
        "the fitted slope of log k or log k / N over log N with its 95 % interval, through the geometric mean of the points. If the rows "
        "hold no slope for the task, it is the slope of all tasks together. Series are shifted slightly apart, so that their bars do not "
        "overlap."
    ),
    "crossing": (
        "Measurement of each threshold, one panel per model and target. Points show the gap of every run to its target against k (log "
        "scale); the gap is positive if the run reaches the target. The line is a robust regression through the runs near the crossing, "
        "drawn over their range. Its zero is k* (vertical line). The 95 % interval is shaded, up to the edge of the panel if an end is "
        "unknown. Filled points are runs used in the fit. Open points are runs too far from the crossing, triangles at an edge are gaps "
        "beyond the axis, and crosses are failed trainings, which are left out. An arrow marks a censored threshold that lies beyond that "
        "side. A panel without a line takes k* only from which runs reached the target."
    ),
    "cells": (
        "Predicted against measured k* for every target that is a share of full fine-tuning's improvement, one panel per task and "
        "subspace, on log scales. Each model has a colour and a marker. The line marks equality and the band a factor of 2. Horizontal "
        "bars are the 95 % intervals of the measured k*; an arrow at the edge marks an end that lies beyond the axis or is unknown. "
        "Hollow markers are predictions above 30 % of the rank ceiling n (C - 1), which limits a prediction for any model. Censored "
        "thresholds are left out."
    ),
    "predictions": (
        "Predictors of k* against the measured k*, one panel each, on log scales, with the line of equality and the band of a factor of 2. "
        "Each model has a colour and a marker. An arrow at an edge marks a censored threshold. The predictors are: "
        + _listed(quantities.K_PRED, quantities.K_GM, quantities.K_M0, quantities.K_M1, quantities.K_GORDON, quantities.K_LARSEN)
        + f". Bars of T3 and gm: {QUANTITIES[quantities.K_GM].interval}."
    ),
    "paths": (
        "Training loss against k (log scale), one panel per model and setting. The solid line is the Moreau envelope of the linearised "
        "model against the predictor gm, and the band reaches from predictor m0 to predictor m1. The dashed line is the loss that the "
        "quadratic at the pretrained point predicts (T1). Points are the final training losses of APET runs."
    ),
    "attribution": (
        "Difference log k*(small) - log k*(large) between two models of a family. The first two bars are the measured and the predicted "
        "(m1) difference. The other bars are the Shapley split of the prediction into the shape of the spectrum, the alignment of the "
        "gradient with the spectrum, the gap to the target, and the share of active entries. Full bars match the alignment by "
        "eigenvalue rank, hatched bars by l / l_1. Bars have 95 % intervals from resampled examples or probes; unknown bars are left out. "
        "The verdict in each title is taken from the rows."
    ),
    "placements": (
        "Effect of the choice of tuned entries. (a) Loss of each placement of k entries, as a share of the untuned model's training "
        "loss. The loss after training is shown against the loss that the quadratic at the pretrained point reaches (conjugate "
        "gradients), with the line of equality. (b) Standard deviation of these shares over placements against the number of "
        "parameters, measured and predicted. Bars are jackknife standard errors."
    ),
    "quadratics": (
        "Predicted against exact k* on quadratics, whose best loss for every k follows from one QR decomposition. (a) k* predicted "
        "by T3, for Gaussian subspaces and for coordinates, with the line of equality and the band of a factor of 2. (b) |log error| of T3 "
        "and of T5's fixed point for coordinate subspaces. The eigenvectors of the Hessian are rotated from the coordinates (0) to a Haar "
        "rotation (1). Points are quadratics, lines are medians, and the dotted line is an error of 5 %. Errors below 0.001 are drawn at "
        "0.001."
    ),
    "spectra": (
        "Curvature of the training loss at the pretrained point. Each model has a colour and a marker, each matrix a line style. "
        "Eigenvalues: |l| against rank, separately for positive (filled) and negative (open) eigenvalues; bars are residuals. Density: the "
        "eigenvalue density, on a symmetric log axis and on a linear axis in units of each spectrum's largest |l|. The density is "
        "smoothed, so it extends beyond the eigenvalues by the width of its kernel. "
        f"N_eff: the {meaning('n_eff')}, against the ridge kappa. Gradient share: the {meaning('top_alignment')}; and the "
        f"{meaning('alignment')}. Bands and bars are one standard error. A bar that reaches zero ends in an arrow. Several spectra of one "
        "model are separate lines."
    ),
    "scale": (
        "Numbers of the spectrum at the pretrained point against the number of parameters, by task. Each family has a colour and a marker, "
        "and each matrix a line style. The numbers are the largest eigenvalue, the share of |g|^2 along the top ten eigenvectors, and: "
        + _listed("trace", "effective_rank", "decay_exponent", "negative_mass")
        + " (Gauss-Newton matrices have no negative eigenvalues). Points are means over position seeds with one standard error. On a log "
        "axis, an arrow at the lower edge marks a bar that reaches zero. An open arrow marks a value that is not positive; it interrupts "
        "the line."
    ),
    "layers": (
        "Distribution of the curvature over the model at the pretrained point. Each column is a model. The upper lines are layers and the "
        "lower lines kinds of tensors. Colour is the trace of a block divided by its number of tuned entries (log scale), as a mean over "
        'position seeds. "outside" is the group of entries outside all layers. Hatched: the trace is not positive. White: the model has no '
        "such entries."
    ),
    "slices": (
        "Loss along lines through a point of the tuned subspace, one panel per model and kind of direction. Each line is one run, whose "
        "seed determines the direction. Solid: training loss; dashed: validation loss; dotted: the quadratic model with the gradient and "
        "the curvature at zero, which leaves the axes where it no longer holds. Displacements are true Euclidean distances of the tuned "
        'entries, and zero is the point itself: the initial point ("pretrained") or the final point of a run ("tuned"). Bands are one '
        "standard error over examples."
    ),
    "ratios": (
        "Absolute ratio of the Hessian's lowest to its highest eigenvalue, over planes through a point of the tuned subspace. The ratio is "
        "0 (dark) where the loss is convex, and above 1 where the strongest curvature is negative. Lines are contours of the training "
        "loss, interpolated between the computed points. Grey: not a number."
    ),
    "contours": (
        "Training loss over planes through a point of the tuned subspace, on one logarithmic colour scale. Losses are interpolated between "
        "the computed points by monotone cubics of the log loss. Displacements are true Euclidean distances of the tuned entries. The "
        "cross marks the point that the plane passes through. For a trajectory, the plane is spanned by its first two principal "
        "components, whose shares of the variance are on the axes. Its points are recorded states of the run, joined in order. These "
        "states lie off the plane. The colour of a state shows the loss of the state itself. The title states the largest difference "
        "(Δloss) between this loss and the loss of the plane below it. For other planes, points are final points of runs. Grey: the loss "
        "is not a number. A slice in more than two dimensions is shown in the plane of its first two directions."
    ),
    "surfaces": (
        "Slices of models of different sizes on common axes. Displacements are in units of |theta|, the Euclidean norm of the tuned "
        "entries' values at the point. All models share one colour scale (planes) or one loss axis (lines). Losses of planes are "
        "interpolated between the computed points by monotone cubics of the log loss. Grey: beyond the slice of this model."
    ),
    "relief": (
        "Training loss over planes through a point of the tuned subspace, as surfaces. Height and colour are the loss on a log scale; all "
        "panels share one colour scale. The file relief.html, beside the figures, shows the surfaces for rotation by mouse."
    ),
}

DEFINITIONS = {
    "k": "number of tuned parameters of a run. APET chooses their positions in the model by a placement rule, for instance at random.",
    "k* (measured)": f"{meaning(quantities.K_STAR)}. The bracket [low, high] is its {QUANTITIES[quantities.K_STAR].interval}.",
    "k (predicted)": (
        "the k at which a random subspace is expected to reach the same target, predicted without training. The value shown is "
        f"{meaning(quantities.K_GM)}. If this path was not followed, the value is {meaning(quantities.K_PRED)}. "
        f"The bracket is its {QUANTITIES[quantities.K_GM].interval}."
    ),
    "target": f"{meaning('target_loss')}.",
    "censored": "known to lie only above (or below) a value: the largest (or smallest) k that was tried or can be predicted.",
    "ratio": "predicted k / measured k*; within a factor of 2 means between 1/2 and 2.",
    "chance": f"{meaning('chance')}.",
    "plateau": f"{meaning('plateau')}. The residual gradient measures the distance from it.",
    "±": (
        "one standard error. For a score, it combines the sampling error of the validation set with the spread over runs, if there are "
        "several runs."
    ),
}  # fmt: skip


def method_name(method: str) -> str:
    """Return the name of a method in words."""
    return METHOD_WORDS.get(method, method)
