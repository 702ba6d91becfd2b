"""Rows of studies that never ran, with planted effects of model size: thresholds of APET, and crossed position and train seeds."""

import math
from collections.abc import Iterable

import numpy as np

from analyses.store import Row, frame, quantities

SIZES = {f"planted-{number}m": 4**number * 1_000_000 for number in range(4)}
RUNS = dict(protocol="planted", method="apet", subspace="coordinates", placement="random")  # noqa: C408 - read as columns


def threshold(model: str, size: int, task: str, log_k: float, stderr: float, quantity: str = quantities.K_HIGH, **columns: object) -> Row:
    ends = {"low": math.exp(log_k - 1.96 * stderr), "high": math.exp(log_k + 1.96 * stderr)}
    return Row(
        model, size, task, quantity, **{"value": math.exp(log_k), "kind": "threshold", "group": "planted", "split": "validation"} | ends | RUNS
        | columns,
    )  # fmt: skip


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
            found.append((model, size, task, log_k, errors.std(ddof=1) / math.sqrt(seeds)))
    bound = np.quantile([log_k for *_, log_k, _ in found], 1 - censored) if censored else math.inf
    return [
        threshold(model, size, task, log_k, stderr, quantity) if log_k <= bound else threshold(
            model, size, task, log_k, 0.0, quantity, value=math.nan, low=math.exp(bound), high=math.nan, status="above",
        )
        for model, size, task, log_k, stderr in found
    ]  # fmt: skip


def run(model: str, size: int, task: str, score: float, **columns: object) -> Row:
    return Row(
        model, size, task, "accuracy",
        **{"value": score, "stderr": 0.01, "kind": "train", "split": "validation", "metric": "accuracy", "k": 1000} | RUNS | columns,
    )  # fmt: skip


def crossed(
    rng: np.random.Generator, factor: float, *, tasks: Iterable[str] = ("task",), positions: int = 4, trains: int = 3, sd: float = 0.04,
    train_sd: float = 0.01, sizes: dict[str, int] = SIZES,
) -> list[Row]:  # fmt: skip
    """Scores of position seeds x train seeds; the variance over positions changes by `factor` per size."""
    rows = []
    for number, (model, size) in enumerate(sizes.items()):
        for task in tasks:
            position = sd * factor ** (number / 2) * rng.normal(size=(positions, 1))
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
