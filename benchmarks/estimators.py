"""Coverage and width of the 95 % t-intervals of the trace estimators.

The matrices have size 200, Haar eigenvectors and four spectra: flat (eigenvalues .5 to 2), 1/i, 1/i^2, and a bulk with three outliers.
Each estimator runs in 400 seeded trials. Quadrature runs the full number of steps, so its only error
comes from the probes. "deflated" first takes out the ten largest eigenpairs, as `cli.py spectrum` does.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
SIZE, TRIALS = 200, 400


def operators() -> dict[str, Any]:
    import numpy as np
    import torch

    from landscape import DenseOperator

    ranks = np.arange(1.0, SIZE + 1)
    spectra = {
        "flat": np.linspace(0.5, 2, SIZE),
        "1/i": 1 / ranks,
        "1/i^2": ranks**-2.0,
        "outliers": np.r_[100, 60, 40, np.linspace(0, 1, SIZE - 3)],
    }
    random = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=random, dtype=torch.float64))
    return {name: DenseOperator(rotation @ torch.diag(torch.as_tensor(values)) @ rotation.T) for name, values in spectra.items()}


def estimators(operator: Any) -> dict[str, tuple[Any, float]]:
    """Return a dictionary from name to (function from seed to Estimate, true value)."""
    import numpy as np

    from landscape import eigenpairs, hutch_plus_plus, hutchinson, slq, squared_frobenius, trace, xtrace

    whole, square = float(operator.matrix.trace()), float(operator.matrix.square().sum())
    known = eigenpairs(operator, 10, SIZE)
    return {
        "hutchinson, 8": (lambda seed: hutchinson(operator, 8, seed), whole),
        "hutchinson, 32": (lambda seed: hutchinson(operator, 32, seed), whole),
        "quadrature of l^2, 8": (lambda seed: trace(slq(operator, 8, SIZE, seed), np.square), square),
        "deflated quadrature, 8": (lambda seed: trace(slq(operator, 8, SIZE, seed, known=known)), whole),
        "squared Frobenius, 8": (lambda seed: squared_frobenius(operator, 8, seed), square),
        "Hutch++, 24": (lambda seed: hutch_plus_plus(operator, 24, seed), whole),
        "XTrace, 24": (lambda seed: xtrace(operator, 24, seed), whole),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 trials, less than 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    import numpy as np
    import torch
    from machine import describe

    torch.set_num_threads(1)
    trials = 40 if options.quick else TRIALS
    figures: dict[str, float] = {}
    if not options.json:
        print(f"{'estimator, probes or products':30} {'spectrum':9} {'covered':>8} {'half width / true value':>23}")
    for spectrum, operator in operators().items():
        for name, (estimate, truth) in estimators(operator).items():
            intervals = np.array([estimate(seed).interval() for seed in range(trials)])
            covered = float(np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])))
            width = float(np.median(intervals[:, 1] - intervals[:, 0]) / 2 / truth)
            figures[f"coverage {name} {spectrum}"] = covered
            if not options.json:
                print(f"{name:30} {spectrum:9} {covered:8.3f} {width:23.3f}")
    print(json.dumps({"figures": figures, **describe()}))


if __name__ == "__main__":
    main()
