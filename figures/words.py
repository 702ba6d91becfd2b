"""Words that the figures and the report share: names of methods, captions, definitions."""

from __future__ import annotations

from analyses import runs
from analyses.method_facts import METHOD_WORDS
from analyses.store import QUANTITIES, quantities


def meaning(quantity: str) -> str:
    """Return what a quantity means, in the words of the registry."""
    return QUANTITIES[quantity].meaning


def _listed(*names: str) -> str:
    """Labels and meanings, as in "trace: sum of the eigenvalues; ..."."""
    return "; ".join(f"{QUANTITIES[name].label}: {meaning(name)}" for name in names)


MATRICES = {matrix.name: matrix.words for matrix in runs.MATRICES.values()}
DIRECTIONS = {direction.name: direction.words for direction in runs.DIRECTIONS.values()}

CAPTIONS = {
    "performance": (
        "Performance against the number k of tuned parameters (log scale), one column a model, by size. Above: validation accuracy, "
        "with the chance level dotted. Below: training loss, with the target dash-dotted. Small points are runs, large points their "
        "mean; bars are the standard error over runs, or over examples where there is a single run. Full fine-tuning is a "
        "horizontal line, since its k is the whole model; other methods stand at their own k. Vertical lines are the measured k* "
        "(solid) and the predicted k (dashed) with their 95 % intervals; an arrowhead at the edge marks a censored one, on the side "
        "where it lies. The thin curve is the training loss that the quadratic at the pretrained point expects (T1)."
    ),
    "thresholds": (
        "Predicted against measured k* (a), with the line of equality and the band of a factor 2, and both against the number of "
        "parameters of the model (b), on log scales; sizes of one family are joined. Bars are 95 % intervals; open arrows at an "
        "edge mark censored thresholds, on the side where they lie. In (b), predicted and measured stand a little apart to keep "
        "bars legible."
    ),
    "crossing": (
        "How each threshold was measured: the gap of every run to its target over k (log scale), positive where the target is "
        "reached, and the robust line through the runs near the crossing, as far as those reach. Its zero is k* (vertical line), "
        "with its interval shaded, to the edge where an end is not known. Open points are runs too far away to be used, triangles at "
        "an edge those beyond the axis, crosses failed trainings set aside; an arrow marks a censored threshold, on the side where it "
        "lies. Without a line, k* is from which runs reached the target alone."
    ),
    "cells": (
        "Predicted against measured k* of every target that is a share of full fine-tuning's improvement, with the line of equality "
        "and the band of a factor 2. Horizontal bars are the measured 95 % intervals, with an arrow at the edge where an end lies "
        "beyond the axis or is not known. Hollow marks are over 30 % of the rank n (C - 1), which bounds a prediction whatever the "
        "model."
    ),
    "predictions": (
        "Predictors of k* against the measured k*, on log scales with the line of equality and the band of a factor 2, a colour a "
        "model; predictors of one threshold stand a little apart. "
        + _listed(quantities.K_PRED, quantities.K_GM, quantities.K_M0, quantities.K_M1, quantities.K_GORDON, quantities.K_LARSEN)
        + f". Bars of T3 and gm: {QUANTITIES[quantities.K_GM].interval}."
    ),
    "paths": (
        "Training loss against k: the Moreau envelope of the linearised model over gm, with the band from m0 to m1; what the quadratic at "
        "the pretrained point expects (T1, dashed); and the training losses of APET's runs."
    ),
    "attribution": (
        "log k*(small) - log k*(large) of two models of a family: measured, predicted (m1), and the prediction's Shapley split over the "
        "spectrum's shape, the gradient's alignment with it and the gap to the target, with what single entries take for those that are "
        "dead. Bars are 95 % intervals from resampled examples or probes. In the full colours alignment goes by eigenvalue rank, in the "
        "pale ones by l / l_1. The verdict is that of the rows."
    ),
    "placements": (
        "How much it matters which entries are tuned. (a) The training loss that a placement of k entries ends at, as a share of the "
        "untuned model's, measured against what the quadratic at the pretrained point reaches there (conjugate gradients), with the line "
        "of equality. (b) The standard deviation over placements against the number of parameters; bars are jackknife errors."
    ),
    "quadratics": (
        "Predicted against exact k* on quadratics, where one QR decomposition gives the best loss for every k. (a) T3 for Gaussian "
        "subspaces and for coordinates; (b) |log error| of T3 and of T5's fixed point for coordinates of Hessians whose eigenvectors are "
        "turned from the coordinates to a Haar rotation; lines are medians, dotted is 5 %, errors below .001 are drawn there."
    ),
    "spectra": (
        "Curvature of the training loss at the pretrained point, one colour a model, one kind of dashes a matrix. Eigenvalues: |l| "
        "by rank among those of one sign, filled where positive and open where negative, with the residual as bar. Density: "
        "smoothed, so that it reaches beyond the eigenvalues by its kernel; once on a symmetric log axis, once linear in units of "
        f"each spectrum's largest |l|. N_eff: the {meaning('n_eff')}, against the ridge kappa. Gradient: the {meaning('top_alignment')}, "
        f"and the {meaning('alignment')}. Bands and bars are one standard error; a bar that reaches zero ends in an arrow. Several "
        "spectra of one model are separate lines."
    ),
    "scale": (
        "Numbers of the spectrum at the pretrained point against the number of parameters, one line a family, by task. "
        + _listed("trace", "effective_rank", "decay_exponent", "negative_mass")
        + " (a Gauss-Newton matrix has none). Points are means over position seeds with one standard error. On a log axis an arrow at the "
        "lower edge marks a bar that reaches zero; an open one, a value that is not positive, where the line is broken."
    ),
    "layers": (
        "Where the curvature lies at the pretrained point: the trace of the block of each layer, and below of each kind of tensor, "
        "over the number of its tuned entries, mean over position seeds. Hatched: the trace is not positive. White: the model has "
        "no such entry."
    ),
    "slices": (
        "Loss along lines through a point of the tuned subspace, one panel a model, one colour a run (its seed names the direction). "
        "Displacements are true Euclidean ones of the tuned entries; zero is the point itself. Bands are one standard error over "
        "examples. The quadratic model has the gradient and the curvature at zero; it leaves the axes where it holds no more."
    ),
    "ratios": (
        "The Hessian's lowest eigenvalue over its highest, without signs, over planes through a point of the subspace; 0 (dark) "
        "where the loss is convex, above 1 where it bends down more than up. Lines: the loss, interpolated between the computed "
        "places. Grey: not a number."
    ),
    "contours": (
        "Training loss over planes through a point of the tuned subspace, on one logarithmic scale of colours, interpolated between "
        "the computed places by monotone cubics of the log loss. Displacements are true Euclidean "
        "ones. In the plane of a trajectory's first principal components, with their share of its "
        "variance on the axes, points are the looks of the run, joined in order. They lie off the plane: each has the colour of its "
        "own loss, and the title says by how much these losses differ at most from the loss of the plane under them. Elsewhere points are "
        "where runs ended. The cross is the point that the plane is laid through. Grey: the loss is not a number. Of a slice in more "
        "dimensions it is the plane of the first two."
    ),
    "surfaces": (
        "Slices over scale on common axes: displacements in units of |theta|, the Euclidean norm of the tuned entries' values at "
        "the point; one scale of colours (or of losses) for all models. Losses are interpolated between the computed places by "
        "monotone cubics of the log loss. Grey: beyond the model's own slice."
    ),
    "relief": (
        "Training loss over planes as surfaces; height and colour are the loss on a log scale. relief.html, beside the figures, shows the "
        "same to be turned."
    ),
}

DEFINITIONS = {
    "k": "number of tunable parameters of a run. APET places them at arbitrary positions of the model.",
    "k* (measured)": f"{meaning(quantities.K_STAR)}. The bracket [low, high] is its {QUANTITIES[quantities.K_STAR].interval}.",
    "k (predicted)": (
        f"the k at which a random subspace is expected to reach the same target, without training: {meaning(quantities.K_GM)}, or, where "
        f"that path is not there, {meaning(quantities.K_PRED)}. The bracket is its {QUANTITIES[quantities.K_GM].interval}."
    ),
    "target": f"{meaning('target_loss')}.",
    "censored": "no value could be given: the threshold lies above (or below) what was tried or can be predicted.",
    "ratio": "predicted over measured k; within a factor 2 means between 1/2 and 2.",
    "chance": f"{meaning('chance')}.",
    "plateau": f"{meaning('plateau')}; the residual gradient says how far.",
    "±": (
        "one standard error. Of an accuracy it combines the sampling error of the validation set with the spread over runs, where there "
        "are several."
    ),
}  # fmt: skip


def method_name(method: str) -> str:
    return METHOD_WORDS.get(method, method)
