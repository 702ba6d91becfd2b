"""One Hessian-vector product over k tuned entries, compared with one gradient of all parameters, and its error.

BERT 4x256 and T5 4+4x256 have random weights: 8 x 64 tokens, one batch, eager attention, one thread. The graph is retained, as it is from
the second product on. Rounds are interleaved in one process. Results are medians of the ratios in the same round, with a bootstrap
interval.

Errors are relative to a double backward of all parameters, restricted to the same entries.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from curved import MODELS, build, coordinates_of, interleaved, objective_of, ratio

KS = (1000, 100_000)


def works_of(name: str) -> tuple[dict, list]:
    """Return the works to be timed, and the attachments to be detached afterwards."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from landscape import GaussNewton, Hessian

    model, batch = build(name)
    parameters = list(model.parameters())

    def gradient() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            torch.autograd.grad(model(**batch).loss, parameters, allow_unused=True)

    works, attachments = {"gradient": gradient}, []
    for k in KS:
        for matrix in (Hessian, GaussNewton):
            twin = copy.deepcopy(model)
            objective, attached = objective_of(twin, batch, coordinates_of(twin, k))
            v = torch.randn(k)
            kept, fresh = (matrix(objective, torch.zeros(k), memory=memory) for memory in (2**34, 0))
            works[f"{matrix.__name__} k={k}"] = lambda operator=kept, v=v: operator.matvec(v)
            works[f"{matrix.__name__} k={k}, fresh graph"] = lambda operator=fresh, v=v: operator.matvec(v)
            attachments.append(attached)
    return works, attachments


def reference(model: Any, batch: dict, coordinates: Any, v: Any) -> Any:
    """Return H v by double backward through all parameters, in float64, but for T5 in the model's own dtype.

    T5's ReLUs have kinks: if an input of 1e-8 changes its sign in float64, the differentiated function is a different one.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = copy.deepcopy(model) if hasattr(model.config, "d_ff") else copy.deepcopy(model).double()
    tensors = dict(model.named_parameters())
    lifted = coordinates.lift(v.to(next(model.parameters()).dtype))
    touched = [tensors[name] for name in lifted]
    with sdpa_kernel(SDPBackend.MATH):
        gradients = torch.autograd.grad(model(**batch).loss, touched, create_graph=True)
        products = torch.autograd.grad(gradients, touched, list(lifted.values()))
    return coordinates.pull(dict(zip(lifted, products, strict=True))).double()


def error(model: Any, batch: dict) -> float:
    """Return the relative error of the product over 1,000 entries in the model's dtype."""
    import torch

    from landscape import Hessian

    coordinates = coordinates_of(model, 1000)
    v = torch.randn(1000, dtype=torch.float64)
    expected = reference(model, batch, coordinates, v)
    objective, attached = objective_of(model, batch, coordinates)
    with attached:
        product = Hessian(objective, torch.zeros(1000)).matvec(v)
    return float((product.double() - expected).norm() / expected.norm())


def own_error() -> float:
    """Return the relative error in float64 for a small module of this project, which casts nothing.

    The module has an embedding, LayerNorms (whose weights are tuned) and attention.
    """
    import torch
    from torch import nn

    from apet.subspaces import Coordinates, ParameterSpace
    from landscape import Hessian

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = None
            self.embed, self.norm, self.out_norm = nn.Embedding(50, 16), nn.LayerNorm(16), nn.LayerNorm(16)
            self.attention, self.out = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 3)

        def forward(self, input_ids, labels):
            x = self.norm(self.embed(input_ids))
            x = self.out_norm(x + self.attention(x, x, x, need_weights=False)[0]).tanh().mean(1)
            logits = self.out(x)
            return argparse.Namespace(logits=logits, loss=nn.functional.cross_entropy(logits, labels))

    torch.manual_seed(0)
    model = Net().double()
    batch = {"input_ids": torch.randint(0, 50, (8, 12)), "labels": torch.randint(0, 3, (8,))}
    space = ParameterSpace.of(model, "all")

    coordinates = Coordinates(space)  # every parameter
    v = torch.randn(space.size, dtype=torch.float64)
    expected = reference(model, batch, coordinates, v)
    objective, attached = objective_of(model, batch, coordinates)
    with attached:
        product = Hessian(objective, torch.zeros(space.size)).matvec(v)
    return float((product - expected).norm() / expected.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, less than 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    import torch
    from machine import describe

    from apet.subspaces import costs_for_machine, using_costs

    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    for name in MODELS:
        with using_costs(costs_for_machine()[0]):  # the choice of kernels that runs make
            works, attachments = works_of(name)
        timings = interleaved(works, 3 if options.quick else 24)
        for attached in attachments:
            attached.detach()
        for work in works:
            middle, low, high = ratio(timings, work, "gradient")
            if not options.json:
                print(f"{name:5} {work:36} / gradient {middle:6.3f}  [{low:.3f}, {high:.3f}]")
        for k, label in zip(KS, ("k1000", "k1e5"), strict=True):
            figures[f"hvp_over_grad_{name}_{label}"] = ratio(timings, f"Hessian k={k}", "gradient")[0]
            figures[f"ggnvp_over_grad_{name}_{label}"] = ratio(timings, f"GaussNewton k={k}", "gradient")[0]
    errors = {f"hvp_error_{name}_fp32": error(*build(name)) for name in MODELS} | {"hvp_error_own_fp64": own_error()}
    rounded = {name: round(value, 3) for name, value in figures.items()}
    print(json.dumps({"figures": rounded | {name: float(f"{e:.2e}") for name, e in errors.items()}, **describe()}))


if __name__ == "__main__":
    main()
