"""F1 of Su et al. (arXiv 2306.02320): do the positions of the tuned entries matter less in larger models?

The measure is the variance component of position seeds in the main metric, from runs that cross position seeds with train seeds
(`landscape.inference.variance_components`). This component is compared over model sizes, beside the standard deviations over train
seeds and over parameter-efficient methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.findings.claims import Answer, Case, Population, bracket, cases_of, counted, falls
from analyses.findings.families import family
from analyses.findings.scores import HEAD, SETTING, Frame, apet_entries, other_methods, scores
from analyses.store import Row

if TYPE_CHECKING:
    from landscape.inference import Crossed

FEWEST_METHODS = 3  # methods for a standard deviation over methods


@dataclass(frozen=True)
class Table:
    """The crossed scores of one model in one setting: what distinguishes the setting in words, k, and the table."""

    model: str
    parameters: int
    task: str
    setting: str
    k: int
    as_many_as: str  # the methods with exactly k parameters on this model; "" if there is none
    crossed: Crossed

    @property
    def family(self) -> str:
        """The family of the model."""
        return family(self.model)

    @property
    def question(self) -> str:
        """Task, setting, and k or the method that k was matched to: what tables of different models must share."""
        return f"{self.task}{self.setting}, {f'k of {self.as_many_as}' if self.as_many_as else f'k = {self.k:,}'}"


def tables(rows: Frame) -> list[Table]:
    """Return the crossed tables of tuned entries: the largest complete part of position seeds by train seeds, at least 2 x 2.

    A table of equal scores has no variance and is left out.
    """
    from landscape.inference import Crossed

    lines, found = scores(rows), []
    apet, others = apet_entries(lines), other_methods(lines)
    several = {name: apet[name].nunique() > 1 for name in SETTING}
    for key, group in apet.groupby(["model", "parameters", *SETTING, "k"]):
        model, parameters, *setting, k = key
        words = "".join(f", {value}" for name, value in zip(SETTING[1:], setting[1:], strict=True) if several[name] and value)
        whole = complete(group)
        matched = others[(others["model"] == model) & (others["task"] == setting[0]) & (others["k"] == k)]
        if whole is not None and np.ptp(whole) > 0:
            methods = " and ".join(sorted(set((matched["method"] + " " + matched["placement"]).str.strip())))
            found.append(Table(str(model), int(parameters), str(setting[0]), words, int(k), methods, Crossed(whole)))
    return found


def complete(group: Frame) -> np.ndarray | None:
    """Return the largest complete table of scores, position seeds by train seeds; None if it is smaller than 2 x 2.

    A pair of seeds with several runs (of other rates or numbers of steps) is ambiguous and is left out.
    """
    counts = group.groupby(["position_seed", "train_seed"])["value"].agg(["mean", "size"])
    table = counts.loc[counts["size"] == 1, "mean"].unstack()
    best: np.ndarray | None = None
    columns = sorted(table.columns, key=lambda seed: -table[seed].notna().sum())[:8]
    for width in range(2, len(columns) + 1):
        for chosen in combinations(columns, width):
            part = table[list(chosen)].dropna().to_numpy()
            if len(part) >= 2 and (best is None or part.size > best.size):
                best = part
    return best


def position_cases(found: list[Table]) -> list[Case]:
    """Return the cases of F1 on crossed tables (`tables`)."""
    return cases_of("F1", "", found, _judge)


def _judge(population: Population[Table]) -> Answer:
    """Return the answer for the tables of a population. Raises ValueError, with the reason, if they do not determine a slope."""
    from landscape.inference import spread_slope

    own = population.members
    models = {table.model: table.parameters for table in own}
    if len(set(models.values())) < 2:
        raise ValueError(f"there is {counted(len(set(models.values())), 'size')}, and a change over size needs at least 2")
    blocks = sorted({(table.family, table.question) for table in own})
    block = [blocks.index((table.family, table.question)) for table in own]
    log_size = np.log([table.parameters for table in own])
    try:
        estimate = spread_slope([table.crossed for table in own], log_size - log_size.mean(), block)
    except ValueError:
        raise ValueError("no task and k has crossed runs on two sizes") from None
    result = f"the standard deviation over positions changes as N^b with b = {bracket(estimate.value, estimate.low, estimate.high)}"
    small, large = (_typical([table for table in own if table.parameters == size]) for size in (min(models.values()), max(models.values())))
    result += f" ({small} at the smallest size and {large} at the largest)"
    shape = " and ".join(sorted({"{} x {}".format(*table.crossed.scores.shape) for table in own}))
    data = f"{counted(len(models), 'model')}, {counted(len(own), 'table')} of {shape} position and train seeds"
    return Answer(estimate, falls(estimate), result, data)


def _typical(own: list[Table]) -> str:
    """Return the root mean square of the standard deviations over positions and over train seeds in words."""
    positions, trains = (
        math.sqrt(float(np.mean([getattr(table.crossed, name) ** 2 for table in own]))) for name in ("of_rows", "of_columns")
    )
    return f"{positions:.2g} beside {trains:.2g} over train seeds"


def position_spreads(found: list[Table]) -> list[Row]:
    """Return the rows of the standard deviations over positions and over train seeds of every table."""
    return [row for table in found for row in _spread_rows(table)]


def _spread_rows(table: Table) -> Iterator[Row]:
    from landscape.inference import row_spread

    positions, trains = table.crossed.scores.shape
    common: dict[str, Any] = {"kind": "finding", "split": "validation", "method": "apet", "k": table.k, "series": table.as_many_as}
    estimate = row_spread(table.crossed)
    numbers = {
        "position_sd": (estimate.value, estimate.low, estimate.high, positions),
        "train_sd": (table.crossed.of_columns, *table.crossed.of_columns_interval(), trains),
    }
    for quantity, (value, low, high, count) in numbers.items():
        yield Row(table.model, table.parameters, table.task, quantity, value, low=low, high=high, x=float(count), **common)


def method_spreads(rows: Frame) -> list[Row]:
    """Return the standard deviation of the main metric over methods by model, task and protocol, with a chi-squared interval."""
    from scipy.special import chdtri

    lines, result = scores(rows), []
    for (model, parameters, task, protocol), group in other_methods(lines).groupby(["model", "parameters", "task", "protocol"]):
        means = group.groupby("method")["value"].mean().to_numpy()
        if len(means) >= FEWEST_METHODS:
            sd, dof = float(means.std(ddof=1)), len(means) - 1
            low, high = (sd * math.sqrt(dof / tail) for tail in chdtri(dof, [0.025, 0.975]))
            result.append(
                Row(
                    model, int(parameters), task, "method_sd", sd, low=low, high=high, x=float(len(means)), kind="finding",
                    protocol=protocol.removesuffix(HEAD), split="validation",
                )
            )  # fmt: skip
    return result
