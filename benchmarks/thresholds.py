"""Coverage of the search's intervals for k*, and errors of its answers, by simulation.

400 seeded searches of 12 runs go through the functions that `study` and `intrinsic-dim` call (analyses.studies.stages.searching,
analyses.thresholds.measured.measure). Only the training is simulated. log k* is uniform between 3 times the smallest k and a third of the
largest k. Each run has an individual k*, which differs by a factor exp(.15 N(0, 1)), so its gap has a standard deviation of .15 slopes at
the crossing. Uneven noise grows from half of this value at k*/e to twice the value at e k*.

The slope of the gap at the crossing is .3 to 3. Logistic gaps level off at +-1.5 (a loss 4.5 times the target, or 4.5 times smaller).
Saturating gaps level off only above the crossing. 5 % of the runs are failed trainings, with a gap between -1.5 and -4.5.

A second table simulates a saturated metric: accuracies are 0 or 1, so only hits and misses are informative. A third table scores
predictions from committed rows (`benchmarks/cells.py`).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
SEARCHES, RUNS, LOWEST, HIGHEST = 400, 12, 4, 4096
SEED_SD, LAPSES, TOP = 0.15, 0.05, 1.5
SLOPES, SHAPES, NOISES = (0.3, 0.65, 1.4, 3.0), ("logistic", "saturating"), ("even", "uneven")
CONDITIONS = [(slope, shape, noise) for slope in SLOPES for shape in SHAPES for noise in NOISES]
LEVELS = (0.9, 0.95)


@dataclass(frozen=True)
class World:
    """The simulated training results at every k, for the search with this `seed`."""

    seed: int
    slope: float
    shape: str
    noise: str

    @property
    def log_k_star(self) -> float:
        import numpy as np

        return float(np.random.default_rng([self.seed, 0]).uniform(math.log(3 * LOWEST), math.log(HIGHEST / 3)))

    def gap(self, k: int, number: int) -> float:
        """Return the gap of the run with position seed `number`."""
        import numpy as np

        random = np.random.default_rng([self.seed, 1, number])
        lapse, depth, normal = random.uniform(), random.uniform(1.5, 4.5), random.normal()
        if lapse < LAPSES:
            return -depth
        beyond = math.log(k) - self.log_k_star
        spread = SEED_SD * (2 ** min(max(beyond, -1.0), 1.0) if self.noise == "uneven" else 1.0)
        u = self.slope * (beyond + spread * normal)
        if self.shape == "logistic":
            return TOP * math.tanh(u / TOP)
        return u if u < 0 else TOP * (1 - math.exp(-u / TOP))


def search(world: World, target: Any, score: Callable[[float], float]) -> list[tuple[float | None, float | None, float | None]]:
    """Return (k*, low, high) at each of LEVELS, as the program answers; None if unknown. `score` turns a gap into a run's score."""
    from analyses.specs import Spec, TrainSpec, spec_dict
    from analyses.store import Row
    from analyses.studies import Search, searching
    from analyses.thresholds import Run, measure

    base = TrainSpec(model="mini-t5-240k", task="mini-sentiment", examples=64, early_stop=False, k=1)
    quantity, split = ("loss", "train") if target.on_loss else ("accuracy", "validation")
    untuned = {"loss": 0.7, "accuracy": 0.5, "chance": 0.5}

    def run(spec: Spec) -> Run:
        number = spec.position_seed
        rows = [Row("m", 1, spec.task, quantity, score(world.gap(spec.k or 0, number)), split=split, k=spec.k)]
        rows += [Row("m", 1, spec.task, f"initial_{quantity}", untuned[quantity], split=split, k=spec.k)]
        rows += [Row("m", 1, spec.task, "chance", untuned["chance"], split="validation", k=spec.k)]
        return Run(f"{spec.k} {number}", spec_dict(spec), rows)

    made: dict[Spec, Run] = {}
    for batch in searching([base], Search(target, None, RUNS, LOWEST, HIGHEST), {}, [], made.get):
        made |= {spec: run(spec) for spec in batch}
    runs = list(made.values())
    answers = []
    for level in LEVELS:
        try:
            crossing, _ = measure(runs, target, target.value(runs, "accuracy"), "accuracy", level=level)
            answers.append((crossing.k_star, crossing.low, crossing.high))
        except ValueError:
            answers.append((None, None, None))
    return answers


def simulate(searches: int, target: Any, score: Callable[[float], float]) -> dict[tuple, list[tuple[float, list[bool], float]]]:
    """Return for each condition the results of its searches: error in log k, coverage at each level, and width at the first level; infinite
    if unknown.
    """
    results_of = defaultdict(list)
    for seed in range(searches):
        world = World(seed, *CONDITIONS[seed % len(CONDITIONS)])
        truth = math.exp(world.log_k_star)
        answers = search(world, target, score)
        k_star = answers[0][0]
        error = math.inf if k_star is None else math.log(k_star / truth)
        # An answer without a value does not cover k*, which lies well within the range.
        covered = [k is not None and (low or 0) <= truth <= (high or math.inf) for k, low, high in answers]
        low, high = answers[0][1:]
        width = math.log(high / low) if low and high else math.inf
        results_of[CONDITIONS[seed % len(CONDITIONS)]].append((error, covered, width))
    return results_of


def table(results_of: dict[tuple, list], title: str, quiet: bool) -> dict[str, float]:
    """Print a line per condition, and return the results over all searches."""
    import numpy as np

    def numbers(results: list) -> dict[str, float]:
        errors, covered, widths = zip(*results, strict=True)
        return {
            **{f"coverage_{100 * level:g}": float(np.mean([of_search[i] for of_search in covered])) for i, level in enumerate(LEVELS)},
            "within_10pct": float(np.mean(np.abs(errors) <= 0.10)),
            "median_error": float(np.median(np.abs(errors))),
            "bias": float(np.median(errors)),
            "unanswered": float(np.mean(np.isinf(errors))),
            "median_width_90": float(np.median(widths)),
        }

    overall = numbers([result for results in results_of.values() for result in results])
    if not quiet:
        print(f"{title:34} {'searches':>8}", *(f"{name:>15}" for name in overall))
        groups: dict[str, list] = {"all": [result for results in results_of.values() for result in results]}
        for part, values in enumerate((SLOPES, SHAPES, NOISES)):
            name = ("slope", "gap", "noise")[part]
            groups |= {f"{name} {v}": [r for c, results in results_of.items() if c[part] == v for r in results] for v in values}
        groups |= {" ".join(map(str, condition)): results for condition, results in results_of.items()}
        for name, results in groups.items():
            print(f"{name:34} {len(results):8}", *(f"{value:15.3f}" for value in numbers(results).values()))
    return overall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="80 searches per table, less than 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    import torch
    from machine import describe

    from analyses.thresholds import Target

    torch.set_num_threads(1)
    searches = 80 if options.quick else SEARCHES
    continuous = table(simulate(searches, Target("loss", 0.35), lambda gap: 0.35 * math.exp(-gap)), "training loss", options.json)
    signs = table(simulate(searches, Target("above_chance", 0.6), lambda gap: float(gap >= 0)), "saturated metric", options.json)
    from cells import scored

    figures = {
        "coverage_90": continuous["coverage_90"],
        "coverage_95": continuous["coverage_95"],
        "within_10pct_12_runs": continuous["within_10pct"],
        "median_error_12_runs": continuous["median_error"],
        "bias_12_runs": continuous["bias"],
        "unanswered": continuous["unanswered"],
        "median_width_90": continuous["median_width_90"],
        "saturated_coverage_90": signs["coverage_90"],
        "saturated_within_10pct_12_runs": signs["within_10pct"],
        **scored(not options.json),
    }
    print(json.dumps({"figures": figures, **describe()}))


if __name__ == "__main__":
    main()
