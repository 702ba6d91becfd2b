"""The page's figures: grouped under headings, each once, with a text for readers who do not see it."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from figures.files import DPI
from figures.interval import Pair
from figures.numbers import counted, interval, number, with_error
from figures.report.by_target import on_target
from figures.report.summary_table import Best
from figures.rows import pick, records, where
from figures.words import CAPTIONS, method_name

SCREEN = 144  # pixels per inch of a figure on the screen: 1.5 times its size in print
MOST = 6  # numbers in the text of a figure; the tables hold all
OTHER = "Other figures"
# Heading -> the question that its figures answer together, and their names in order.
GROUPS = {
    "Claims": ("The verdicts at the top of the page, beside each other.", ("claims",)),
    "Performance and thresholds": (
        "The scores and losses over k, other methods, the crossing of the target, and the thresholds of all models together.",
        ("performance", "methods", "crossing", "thresholds"),
    ),
    "Predictors of the threshold": (
        "The predictors against the measured thresholds, the path that they follow, and the causes of the change with scale.",
        ("predictions", "cells", "paths", "attribution", "quadratics"),
    ),
    "Positions of the tuned entries": ("The effect of the choice of positions.", ("positions", "placements")),
    "Curvature": (
        "Whole spectra, single numbers of the spectra over scale, and the curvature by layer.",
        ("spectra", "n_eff", "scale", "layers"),
    ),
    "Loss surfaces": (
        "The loss along lines and over planes, in true distances and on common axes over scale.",
        ("slices", "contours", "relief", "ratios", "surfaces"),
    ),
    "Cost": ("The cost of the results beside full fine-tuning.", ("cost",)),
}


@dataclass(frozen=True)
class Shown:
    """A figure on the page: its PNG as base64, its size in pixels on the screen, its caption, and its text alternative."""

    name: str
    data: str
    width: int
    height: int
    caption: str
    alternative: str


@dataclass(frozen=True)
class Group:
    """Figures under one heading. `repeats` names figures that are left out, with the reason."""

    heading: str
    words: str
    figures: list[Shown]
    repeats: list[str] = field(default_factory=list)


def grouped(images: dict[str, Path], texts: dict[str, str], thresholds: dict[str, list[Pair]]) -> list[Group]:
    """Return the groups that have a figure. `images` maps figures to PNG files, and `texts` figures to their numbers in words."""
    left_out = repeated(list(images), thresholds)
    known = {name for _, names in GROUPS.values() for name in names}
    groups = {**GROUPS, OTHER: ("", tuple(name for name in images if name not in known))}
    found = []
    for heading, (words, names) in groups.items():
        shown = [_shown(name, images[name], texts.get(name, "")) for name in names if name in images and name not in left_out]
        repeats = [left_out[name] for name in names if name in left_out]
        if shown:
            found.append(Group(heading, words, shown, repeats))
    return found


def repeated(names: list[str], thresholds: dict[str, list[Pair]]) -> dict[str, str]:
    """Return {figure: sentence} for figures whose content other figures on the page show completely."""
    found = {}
    if {"cells", "predictions"} <= set(names) and len(thresholds) == 1:
        found["cells"] = "The figure “cells” shows a predictor of “predictions” again, because the rows hold one target."
    if {"n_eff", "spectra"} <= set(names):
        found["n_eff"] = "The figure “n_eff” shows the curves N_eff of “spectra” again."
    if {"relief", "contours"} <= set(names):
        found["relief"] = "The figure “relief” shows the planes of “contours” again, as heights."
    return found


def _shown(name: str, path: Path, numbers: str) -> Shown:
    png = path.read_bytes()
    width, height = struct.unpack(">II", png[16:24])  # the first chunk of a PNG states its size
    caption = CAPTIONS.get(name, name)
    first = caption.partition(". ")[0].rstrip(".")
    return Shown(
        name, base64.b64encode(png).decode("ascii"), round(width * SCREEN / DPI), round(height * SCREEN / DPI), caption,
        ". ".join(part for part in (first, numbers) if part).rstrip(".") + ".",
    )  # fmt: skip


def alternatives(rows: pd.DataFrame, thresholds: dict[str, list[Pair]], best: list[Best]) -> dict[str, str]:
    """Return {figure: its main numbers in words}. `rows` come from `tidy`."""
    named = [(f"{pair.model} on {on_target(pair.question, target)}", pair) for target, found in thresholds.items() for pair in found]
    measured = _some("measured k*", [f"{interval(pair.measured)} for {name}" for name, pair in named if pair.measured])
    predicted = _some("predicted k", [f"{interval(pair.predicted)} for {name}" for name, pair in named if pair.predicted])
    scores = [
        f"{with_error(each.score, each.error)} by {method_name(each.method)} of {each.model} on {each.setting.label}" for each in best
    ]
    both = ". ".join(part for part in (measured, predicted) if part)
    texts = {
        ("performance", "methods"): _some("best score", scores),
        ("crossing",): measured,
        ("thresholds", "predictions", "cells", "paths"): both,
        ("attribution",): _change(rows),
        ("positions", "placements"): _placements(rows),
        ("spectra", "n_eff", "scale", "layers"): _spectra(rows),
        ("slices", "contours", "relief", "ratios", "surfaces"): _slices(rows),
    }
    return {name: text for names, text in texts.items() for name in names}


def _some(what: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f"; and {counted(len(items) - MOST, 'more value')} in the tables" if len(items) > MOST else ""
    return f"{what[0].upper()}{what[1:]}: {'; '.join(items[:MOST])}{more}"


def _spectra(rows: pd.DataFrame) -> str:
    top = where(pick(rows, "eigenvalue"), pick(rows, "eigenvalue")["x"] == 1)
    return _some("largest eigenvalue", [f"{number(row.value)} for {row.model} on {row.task} ({row.matrix})" for row in records(top)])


def _slices(rows: pd.DataFrame) -> str:
    losses = pick(rows, "slice_loss", "train").dropna(subset=["value"])
    slices: dict[str, list[float]] = {}
    for row in records(losses):
        slices.setdefault(f"{row.model} on {row.task}, {row.directions} directions", []).append(row.value)
    ranges = [f"{number(min(values))} to {number(max(values))} for {name}" for name, values in slices.items()]
    return _some("training loss from lowest to highest", ranges)


def _placements(rows: pd.DataFrame) -> str:
    spreads = pick(rows, "placement_spread").sort_values("parameters")
    return _some("standard deviation over positions", [
        f"{with_error(row.value, row.stderr)} ({row.series}) for {row.model}" for row in records(spreads)
    ])  # fmt: skip


def _change(rows: pd.DataFrame) -> str:
    changes = where(rows, rows["quantity"].isin(["measured_change", "explained_total"]))
    return _some("change of log k*", [
        f"{number(row.value)} {'measured' if row.quantity == 'measured_change' else 'predicted'} from {row.other_model} to {row.model}"
        for row in records(changes)
    ])  # fmt: skip
