"""A plane of 5 x 5 points, compared with loss-landscapes and Landscaper, in one process.

The benchmark runs in a separate environment (`make bench-peers`). It takes BERT 4x256 of `curved.py`, 8 x 64 tokens, eager attention, one
thread. Whole planes are timed in interleaved rounds; the result is the median of the ratios in the same round. Peers move all tensors along
dense directions. Ours moves 1,000 entries, or every parameter (`..._full`).

loss-landscapes normalises by filters by default. It divides by the norms of biases, so zero biases are set to .001. `plain` is without
normalisation. Its directions are drawn again for each plane and are part of its time, since it offers no other way. All programs take the
same loss of the same batch.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from curved import build, coordinates_of, interleaved, ratio
from surface import SIDE, K, bare, plane_of


def losslandscapes(model: Any, batch: dict, normalization: str | None = "filter") -> Callable[[], Any]:
    import loss_landscapes
    import torch
    from loss_landscapes.metrics import Metric

    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.constant_(parameter, 1e-3)

    class Loss(Metric):
        def __call__(self, wrapper: Any) -> float:
            with torch.no_grad():
                return float(wrapper.modules[0](**batch).loss)

    return lambda: loss_landscapes.random_plane(model, Loss(), distance=10, steps=SIDE, normalization=normalization, deepcopy_model=True)


def landscaper(model: Any, batch: dict) -> Callable[[], Any]:
    import torch
    from landscaper.compute import compute_loss_landscape

    @torch.no_grad()
    def loss(model: Any, data: Any) -> float:
        return float(model(**batch).loss)

    directions = [[torch.randn_like(p) * 1e-3 for p in model.parameters()] for _ in range(2)]

    def plane() -> None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            compute_loss_landscape(model, None, copy.deepcopy(directions), loss, steps=SIDE, distance=1.0, dim=2, device="cpu")

    return plane


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, less than 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    import torch
    from machine import describe

    from apet.subspaces import Coordinates, ParameterSpace

    torch.set_num_threads(1)
    model, batch = build("bert")
    twins = [copy.deepcopy(model) for _ in range(5)]
    space = ParameterSpace.of(twins[1], "all")
    forward = bare(model, batch)
    works = {
        "forwards": lambda: [forward() for _ in range(SIDE * SIDE)],
        "ours": plane_of(twins[0], batch, coordinates_of(twins[0], K)),
        "ours_full": plane_of(twins[1], batch, Coordinates(space)),
        "losslandscapes": losslandscapes(twins[2], batch),
        "losslandscapes_plain": losslandscapes(twins[4], batch, None),
        "landscaper": landscaper(twins[3], batch),
    }
    timings, figures = interleaved(works, 2 if options.quick else 8), {}
    for peer in ("losslandscapes", "losslandscapes_plain", "landscaper"):
        for ours in ("ours", "ours_full"):
            middle, low, high = ratio(timings, peer, ours)
            if not options.json:
                print(f"{peer:20} / {ours:9}  {middle:6.3f}  [{low:.3f}, {high:.3f}]")
            figures[f"{peer}_over_{ours}"] = round(middle, 3)
    print(json.dumps({"figures": figures, **describe()}))


if __name__ == "__main__":
    main()
