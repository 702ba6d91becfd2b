"""The kinds of run: each turns a spec and its inputs into rows and arrays."""

from __future__ import annotations

import numpy as np

from analyses.inputs import Context, Inputs, row_maker, scorer_for, subsets
from analyses.slicing import slice_run
from analyses.spec import Spec
from analyses.spectrum import spectrum_run
from analyses.store import Row
from analyses.training import train_run


def predict_run(spec: Spec, found: Inputs, context: Context) -> tuple[list[Row], dict[str, np.ndarray]]:
    from apet.evaluation import predictions
    from apet.jacobian import gram_matrix
    from apet.space import ParameterSpace
    from landscape.dual import gradient_spectrum

    model, scorer = found.loaded.model, scorer_for(spec, found)
    examples, _ = subsets(spec, found)
    space = ParameterSpace.of(model, spec.scope)
    gram = gram_matrix(model, space, scorer, examples, lambda done, total: context.report("Gram matrix", done, total)).numpy()
    logits, labels = (t.numpy() for t in predictions(model, scorer, examples))
    spectrum = gradient_spectrum(gram, logits, labels)
    make = row_maker(spec, found)
    rows = [
        make("initial_loss", spectrum.loss, split="train"),
        make("rank_ceiling", spectrum.rank_ceiling),
        make("in_scope", space.size),
        make("example_gradients", spectrum.rank_ceiling),
        *[make("gram_eigenvalue", value, x=i + 1) for i, value in enumerate(spectrum.eigenvalues) if value > 0],
        *[make("gradient_projection", value, x=i + 1) for i, value in enumerate(spectrum.projections)],
    ]
    return rows, {"gram": gram, "logits": logits, "labels": labels}


RUNS = {"train": train_run, "predict": predict_run, "spectrum": spectrum_run, "slice": slice_run}
