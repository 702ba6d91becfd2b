"""Rows of studies that never ran, with planted effects of model size: which effects would the ladder's two studies decide?

    python studies/planted.py [DRAWS] > studies/rows/planted.json

The script draws the thresholds of studies/thresholds-ladder.yaml and the crossed seeds of studies/positions-ladder.yaml, with a given
effect, and prints how often each verdict comes out as JSON: claim, effect, models, verdict. Its noise is assumed before the studies: a
standard deviation of log k of 0.6 per threshold and 0.3 per model, and equal variances over positions and train seeds at the smallest size.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analyses.store import Row, frame, quantities, statuses

SIZES = {f"planted-{number}m": 4**number * 1_000_000 for number in range(4)}
RUNS = dict(protocol="planted", method="apet", subspace="coordinates", placement="add random entry")  # noqa: C408 - read as columns


def threshold(model: str, size: int, task: str, log_k: float, stderr: float, quantity: str = quantities.K_HIGH, **columns: object) -> Row:
    ends = {"low": math.exp(log_k - 1.96 * stderr), "high": math.exp(log_k + 1.96 * stderr)}
    known = {"value": math.exp(log_k), "kind": "threshold", "group": "planted", "split": "validation"}
    return Row(model, size, task, quantity, **known | ends | RUNS | columns)


def thresholds(
    rng: np.random.Generator, slope: float, *, seeds: int = 5, sd: float = 0.15, tasks: Iterable[str] = ("task",), task_sd: float = 0.0,
    model_sd: float = 0.0, censored: float = 0.0, quantity: str = quantities.K_HIGH, sizes: dict[str, int] = SIZES,
) -> list[Row]:  # fmt: skip
    """Thresholds with log k = 7 + slope log(N / smallest) + an effect per task and per model + the mean error of `seeds` seeds.

    The share `censored` of the largest thresholds is only known to lie above the largest k tried.
    """
    smallest, found = min(sizes.values()), []
    shifts = {task: task_sd * rng.normal() for task in tasks}
    for model, size in sizes.items():
        shift = model_sd * rng.normal()
        for task in tasks:
            errors = sd * rng.normal(size=seeds)
            log_k = 7 + slope * math.log(size / smallest) + shifts[task] + shift + errors.mean()
            found.append((model, size, task, log_k, errors.std(ddof=1) / math.sqrt(seeds) if seeds > 1 else sd))
    bound = np.quantile([log_k for *_, log_k, _ in found], 1 - censored) if censored else math.inf
    return [
        threshold(model, size, task, log_k, stderr, quantity) if log_k <= bound else threshold(
            model, size, task, log_k, 0.0, quantity, value=math.nan, low=math.exp(bound), high=math.nan, status="above",
        )
        for model, size, task, log_k, stderr in found
    ]  # fmt: skip


def run(model: str, size: int, task: str, score: float, quantity: str = "accuracy", **columns: object) -> Row:
    return Row(
        model, size, task, quantity,
        **{"value": score, "stderr": 0.01, "kind": "train", "split": "validation", "metric": "accuracy", "k": 1000} | RUNS | columns,
    )  # fmt: skip


def crossed(
    rng: np.random.Generator, slope: float, *, tasks: Iterable[str] = ("task",), positions: int = 4, trains: int = 3, sd: float = 0.04,
    train_sd: float = 0.01, sizes: dict[str, int] = SIZES,
) -> list[Row]:  # fmt: skip
    """Scores of position seeds x train seeds; the standard deviation over positions is `sd` (N / smallest)^slope."""
    rows, smallest = [], min(sizes.values())
    for model, size in sizes.items():
        for task in tasks:
            position = sd * (size / smallest) ** slope * rng.normal(size=(positions, 1))
            scores = 0.7 + position + train_sd * rng.normal(size=(1, trains)) + train_sd * rng.normal(size=(positions, trains))
            rows += [
                run(model, size, task, float(scores[i, j]), position_seed=i, train_seed=j, run_id=f"{model} {task} {i} {j}")
                for i in range(positions) for j in range(trains)
            ]  # fmt: skip
    return rows


def verdicts(rows: list[Row]) -> dict[tuple[str, str], str]:
    """Return (claim, models) -> verdict."""
    from analyses.findings import findings

    return {(row.series, row.model): row.status for row in findings(frame(rows)) if row.quantity == quantities.CLAIM}


LADDER = {
    "mini-t5-130k": 126_368, "mini-t5-240k": 241_248, "mini-t5-790k": 790_096, "mini-t5-2m": 2_100_224, "mini-t5-6m": 5_739_776,
    "mini-bert-120k": 120_664, "mini-bert-400k": 378_944, "mini-bert-1m": 1_156_864, "mini-bert-3m": 3_422_112,
    "mini-bloom-120k": 112_848, "mini-bloom-400k": 362_368, "mini-bloom-1m": 1_119_616, "mini-bloom-3m": 3_338_496,
}  # fmt: skip
TASKS = ("one", "two")
NOISE: dict[str, Any] = {"tasks": TASKS, "seeds": 1, "sd": 0.6, "model_sd": 0.3, "task_sd": 1.0, "sizes": LADDER}


def of_ladder(claim: str, effect: float, rng: np.random.Generator) -> list[Row]:
    """Return the rows of one claim in the design of the ladder's studies.

    effect: for F1 and F2 the slope of the logarithm of the spread, or of k, over log N; for F3 the standard deviation of log k over tasks.
    """
    if claim == "F1":
        families = ("mini-t5", "mini-bert", "mini-bloom")
        parts = [{model: size for model, size in LADDER.items() if model.startswith(name)} for name in families]
        return [row for sizes in parts for row in crossed(rng, effect, tasks=TASKS, train_sd=0.04, sizes=sizes)]
    if claim == "F2":
        return thresholds(rng, effect, **NOISE)
    return thresholds(rng, 0.0, quantity=quantities.K_LOW, **NOISE | {"task_sd": effect})


EFFECTS = {"F1": (0.0, -0.25, -0.5), "F2": (0.0, -0.25, -0.5, -1.0), "F3": (0.1, 0.7, 2.0)}


def decided(draws: int) -> dict[str, Any]:
    """Return the share of every verdict: claim, effect, models (one family, all families), verdict."""
    tree: dict[str, Any] = {}
    for claim, effects in EFFECTS.items():
        for effect in effects:
            found = [verdicts(of_ladder(claim, effect, np.random.default_rng([seed, draws]))) for seed in range(draws)]
            for models in ("mini-t5", "all families"):
                counts = Counter(each[claim, models] for each in found)
                shares = {word: counts[word] / draws for word in (statuses.SUPPORTED, statuses.NOT_SUPPORTED, statuses.UNDECIDED)}
                tree.setdefault(claim, {}).setdefault(f"{effect:g}", {})[models] = shares
    return tree


if __name__ == "__main__":
    print(json.dumps(decided(int(sys.argv[1]) if len(sys.argv) > 1 else 40), indent=1))
