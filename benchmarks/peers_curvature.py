"""Curvature over k tuned entries, compared with curvlinops, hessian-eigenthings and PyHessian, in one process.

The benchmark runs in a separate environment (`make bench-peers`). It takes BERT 4x256 and T5 4+4x256 of `curved.py`, one batch of 8 x 64
tokens, eager attention, one thread. Rounds are interleaved; the result is the median of the ratios in the same round. A peer has no
subspace of single entries: it multiplies a vector over all tensors in scope that is zero elsewhere, and k entries of the result are read.

    product     one Hessian-vector product at k = 1,000 (PyHessian and ours with the graph retained), and its error against float64
    top ten     the ten largest eigenvalues at k = 256. Ours: rounds of more steps until every residual is below 1e-3 of the largest.
                Peers: eigenthings' Lanczos and scipy's eigsh on curvlinops, tolerance 1e-3. Graphs are built within the time.
    density     the spectral measure at k = 256. Ours: 4 probes of 20 steps (the top pairs included). eigenthings: 4 to 8 probes,
                until its error equals ours (Wasserstein distance to the exact eigenvalues, mean over 3 seeds). If it does not,
                the ratio is a lower bound and `density_reached` is 0.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from curved import MODELS, build, coordinates_of, interleaved, objective_of, ratio, seconds
from hvp import reference

K, SMALL_K, COUNT, TOLERANCE = 1000, 256, 10, 1e-3
MOST_PROBES = 8  # largest number of probes for a peer's density
PEERS = ("curvlinops", "eigenthings", "pyhessian")
Product = Callable[[Any], Any]  # v (k,) -> (k,)


def ours(model: Any, batch: dict, coordinates: Any) -> Any:
    """Return our operator. The model stays attached."""
    import torch

    from landscape import Hessian

    objective, _ = objective_of(model, batch, coordinates)
    return Hessian(objective, torch.zeros(coordinates.k), memory=2**34)


def in_scope(model: Any, coordinates: Any) -> dict[str, Any]:
    """Return the tensors that peers differentiate: the tensors of the space, in the model's order. All others are frozen."""
    names = set(coordinates.space.names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def through(coordinates: Any, tensors: dict[str, Any], product: Callable[[list], list]) -> Product:
    """Return a product over whole tensors as a product over the k entries."""
    import torch

    def matvec(v: Any) -> Any:
        lifted = coordinates.lift(v)
        whole = [lifted.get(name, torch.zeros_like(p)) for name, p in tensors.items()]
        return coordinates.pull(dict(zip(tensors, product(whole), strict=True)))

    return matvec


def curvlinops(model: Any, batch: dict, coordinates: Any) -> Product:
    import torch
    from curvlinops import HessianLinearOperator

    tensors = in_scope(model, coordinates)
    inputs, labels = {"input_ids": batch["input_ids"]}, batch["labels"]
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = model._shift_right(labels)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(**x).logits.flatten(0, -2)

    operator = HessianLinearOperator(
        Logits(), torch.nn.CrossEntropyLoss(), list(tensors.values()), [(inputs, labels.flatten())], check_deterministic=False,
        num_data=labels.numel(), batch_size_fn=lambda x: labels.numel(),
    )  # fmt: skip
    return through(coordinates, tensors, lambda whole: operator @ whole)


def eigenthings(model: Any, batch: dict, coordinates: Any) -> Product:
    import torch
    from hessian_eigenthings import HessianOperator

    tensors = in_scope(model, coordinates)
    operator = HessianOperator(model, [batch], lambda model, batch: model(**batch).loss)
    sizes = [p.numel() for p in tensors.values()]

    def product(whole: list) -> list:
        product = operator.matvec(torch.cat([v.flatten() for v in whole]))
        return [part.view(p.shape) for part, p in zip(product.split(sizes), tensors.values(), strict=True)]

    return through(coordinates, tensors, product)


def pyhessian(model: Any, batch: dict, coordinates: Any) -> Product:
    import torch
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    tensors = in_scope(model, coordinates)

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(input_ids=ids, labels=batch["labels"]).loss

    made = hessian(Loss(), lambda loss, _: loss, data=(batch["input_ids"], batch["labels"]), cuda=False)
    return through(coordinates, tensors, lambda whole: hessian_vector_product(made.gradsH, made.params, whole))


MAKERS: dict[str, Callable[[Any, dict, Any], Product]] = {"curvlinops": curvlinops, "eigenthings": eigenthings, "pyhessian": pyhessian}


def products(name: str, rounds: int, say: Callable[[str], None]) -> dict[str, float]:
    """Return the seconds of a peer's product over ours, and the relative error of every product."""
    import torch

    model, batch = build(name)
    v = torch.randn(K)
    made: dict[str, Product] = {peer: MAKERS[peer](twin := copy.deepcopy(model), batch, coordinates_of(twin, K)) for peer in PEERS}
    coordinates = coordinates_of(model, K)
    expected = reference(model, batch, coordinates, v)
    made["ours"] = ours(model, batch, coordinates).matvec
    timings = interleaved({peer: lambda work=work: work(v) for peer, work in made.items()}, rounds)
    for peer, work in made.items():
        error = float((work(v).double() - expected).norm() / expected.norm())
        middle, low, high = ratio(timings, peer, "ours")
        say(f"{name:5} {peer:12} / ours {middle:6.3f}  [{low:.3f}, {high:.3f}]   relative error {error:.1e}")
    return {f"{peer}_over_ours_{name}": ratio(timings, peer, "ours")[0] for peer in PEERS}


def spectra(name: str, say: Callable[[str], None]) -> dict[str, float]:
    """Return the seconds to the ten largest eigenvalues and to a density, of peers over ours."""
    import torch
    from hessian_eigenthings import LambdaOperator, lanczos
    from scipy.sparse.linalg import LinearOperator, eigsh

    from landscape import dense_spectrum, eigenpairs

    model, batch = build(name)
    peers = {peer: MAKERS[peer](twin := copy.deepcopy(model), batch, coordinates_of(twin, SMALL_K)) for peer in PEERS[:2]}
    operator = ours(model, batch, coordinates_of(model, SMALL_K))
    exact = dense_spectrum(operator).eigenvalues
    scipy_operator = LinearOperator(
        (SMALL_K, SMALL_K), lambda v: peers["curvlinops"](torch.as_tensor(v).float().flatten()).detach().numpy(), dtype="f4"
    )
    theirs = LambdaOperator(lambda v: peers["eigenthings"](v).detach(), SMALL_K)
    answers: dict[str, Any] = {}
    times = {
        "ours": seconds(lambda: answers.update(ours=eigenpairs(operator, COUNT, 40, rounds=1).eigenvalues)),
        "curvlinops": seconds(
            lambda: answers.update(curvlinops=eigsh(scipy_operator, COUNT, which="LA", tol=TOLERANCE, return_eigenvectors=False))
        ),
        "eigenthings": seconds(lambda: answers.update(eigenthings=lanczos(theirs, k=COUNT, tol=TOLERANCE, which="LA", seed=0).eigenvalues)),
    }
    for who, values in answers.items():
        error = max(abs(a - b) for a, b in zip(sorted(map(float, values), reverse=True), exact[:COUNT], strict=True)) / exact[0]
        say(f"{name:5} top ten   {who:12} {times[who]:7.1f} s   largest error {error:.1e} of the largest eigenvalue")
    figures = {f"top10_{who}_over_ours_{name}": times[who] / times["ours"] for who in PEERS[:2]}
    taken, reached = densities(name, operator, theirs, exact, say)
    return figures | {f"density_eigenthings_over_ours_{name}": taken, f"density_reached_{name}": float(reached)}


def densities(name: str, operator: Any, theirs: Any, exact: Any, say: Callable[[str], None]) -> tuple[float, bool]:
    """Return the seconds of eigenthings' quadrature over ours, and whether it reached our error."""
    import numpy as np
    from hessian_eigenthings import spectral_density
    from scipy.stats import wasserstein_distance

    from landscape import eigenpairs, slq

    def error(nodes: Any, weights: Any) -> float:
        kept = weights > 0
        return float(wasserstein_distance(nodes[kept], exact, weights[kept])) / float(exact[0])

    def our_error(seed: int) -> float:
        operator.release()
        measure = slq(operator, 4, 20, seed, known=eigenpairs(operator, COUNT, 40, which="LM", seed=seed, rounds=1))
        return error(measure.nodes.ravel(), measure.weights.ravel())

    def other(seed: int, probes: int) -> float:
        density = spectral_density(theirs, num_runs=probes, lanczos_steps=20, seed=1000 * seed)
        return error(np.asarray(density.raw_eigenvalues).ravel(), np.clip(np.asarray(density.raw_weights), 0, None).ravel())

    errors: list[float] = []
    ours_took = seconds(lambda: errors.extend(our_error(seed) for seed in range(3))) / 3
    say(f"{name:5} density   ours         {ours_took:7.1f} s   error {np.mean(errors):.1e}")
    probes = 4
    while True:
        their_errors: list[float] = []
        took = seconds(lambda probes=probes, their_errors=their_errors: their_errors.extend(other(seed, probes) for seed in range(3))) / 3
        say(f"{name:5} density   eigenthings  {took:7.1f} s   error {np.mean(their_errors):.1e} with {probes} probes")
        short = float(np.mean(their_errors) / np.mean(errors))
        if short <= 1 or probes >= MOST_PROBES:
            return took / ours_took, short <= 1
        probes = min(MOST_PROBES, max(2 * probes, ceil(probes * short**2)))  # the error falls with the root of the number of probes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only products and few rounds, less than 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from machine import describe

    torch.set_num_threads(1)
    say = (lambda line: None) if options.json else print
    figures: dict[str, float] = {}
    for name in MODELS:
        figures |= products(name, 3 if options.quick else 12, say)
    for name in () if options.quick else MODELS:
        figures |= spectra(name, say)
    print(json.dumps({"figures": {name: round(value, 3) for name, value in figures.items()}, **describe()}))


if __name__ == "__main__":
    main()
