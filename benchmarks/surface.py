"""Cost of a point of a loss surface beyond a forward pass.

The benchmark takes BERT 4x256 of `curved.py`, 8 x 64 tokens, eager attention, one thread. Rounds are interleaved in one process; the result
is the median of the ratios in the same round, with a bootstrap interval. Planes of 5 x 5 points are compared with as many forward passes. A
point makes its displacement from two directions, writes the entries and computes the loss. k is 1,000 random entries, and every parameter.
Then, for each family, eight points of the smallest ladder model are computed one by one and in one forward pass (1,000 entries, 32
generated sentences).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from curved import build, coordinates_of, interleaved, objective_of, ratio

K, SIDE, POINTS = 1000, 5, 8
SMALLEST = ("mini-t5-130k", "mini-bloom-120k", "mini-bert-120k")


def bare(model: Any, batch: dict) -> Callable[[], None]:
    """Return a function that computes a forward pass and its loss only."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def forward() -> None:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            float(model(**batch).loss)

    return forward


def plane_of(model: Any, batch: dict, coordinates: Any) -> Callable[[], Any]:
    """Return a function that computes a plane of SIDE x SIDE points. The model stays attached."""
    import torch

    from landscape import evaluate_slice, random_directions, symmetric_axis

    objective, _ = objective_of(model, batch, coordinates)
    axes = [symmetric_axis(1.0, SIDE)] * 2
    directions = random_directions(coordinates.k, 2, 0)
    return lambda: evaluate_slice(objective.loss, torch.zeros(coordinates.k), directions, axes)


def several(name: str) -> dict[str, Callable[[], Any]]:
    """Return eight points of a ladder model, one by one and all at once."""
    import torch

    from apet.models import load_model
    from apet.scoring import scorer_of
    from apet.subspaces import Coordinates, ParameterSpace, StackedForward, random_entries
    from apet.tasks import load_task

    loaded, data = load_model(name), load_task("mini-sentiment", None)
    model, scorer = loaded.model, scorer_of(loaded, data.task, 128, "cpu", 0)
    batch = next(iter(scorer.batches(data.splits["train"][:32], 32)))
    space = ParameterSpace.of(model)
    coordinates = Coordinates(space, random_entries(space.size, K, 0))
    points = torch.randn(POINTS, K) * 0.01
    many, twin = StackedForward(model, coordinates, scorer.logits), copy.deepcopy(model)
    attached = coordinates.attach(twin)

    @torch.no_grad()
    def one_by_one() -> None:
        for point in points:
            attached.bind(point)
            scorer.logits(twin, batch)

    return {"single": one_by_one, "many": lambda: many(points, batch)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, less than 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    import torch
    from machine import describe

    from apet.subspaces import Coordinates, ParameterSpace

    torch.set_num_threads(1)
    say = (lambda line: None) if options.json else print
    model, batch = build("bert")
    part, whole = copy.deepcopy(model), copy.deepcopy(model)
    space = ParameterSpace.of(whole, "all")
    forward = bare(model, batch)
    works = {
        "forward": lambda: [forward() for _ in range(SIDE * SIDE)],
        "k1000": plane_of(part, batch, coordinates_of(part, K)),
        "full": plane_of(whole, batch, Coordinates(space)),
    }
    timings = interleaved(works, 2 if options.quick else 12)
    figures = {}
    for name in ("k1000", "full"):
        middle, low, high = ratio(timings, name, "forward")
        say(f"BERT, a point in {name:6} / forward  {middle:6.3f}  [{low:.3f}, {high:.3f}]")
        figures[f"point_over_forward_{name}"] = round(middle, 3)
    for number, name in enumerate(SMALLEST):
        middle, low, high = ratio(interleaved(several(name), 5 if options.quick else 30), "many", "single")
        say(f"{name}, {POINTS} points at once / one by one  {middle:6.3f}  [{low:.3f}, {high:.3f}]")
        figures["batched_over_single_points" + (f"_{name.split('-')[1]}" if number else "")] = round(middle, 3)
    print(json.dumps({"figures": figures, **describe()}))


if __name__ == "__main__":
    main()
