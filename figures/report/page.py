"""One self-contained HTML page of a study: answers, figures, tables, misfits, and a summary of the runs.

Every sentence and number is made from the rows. The page loads nothing and needs no script.
"""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analyses.store import QUANTITIES
from figures.files import replacing
from figures.interval import Pair, pairs
from figures.numbers import MISSING, interval, number, with_error
from figures.report.summary_table import Best, best_scores
from figures.report.verdicts import Answer, answers, misfits, unchecked
from figures.rows import models, of_model, pick, runs, tidy, where
from figures.words import CAPTIONS, DEFINITIONS, MATRICES, method_name

OTHER_KINDS = {"predict": "prediction/predictions", "spectrum": "spectrum/spectra", "slice": "slice/slices"}
SCALARS = ("trace", "negative_mass", "symmetry_defect")
CURVATURES = ("task", "model", "matrix", "k", "top eigenvalue ± residual",
              *(QUANTITIES[name].label + (" ± s.e." if QUANTITIES[name].interval else "") for name in SCALARS))  # fmt: skip


def write_report(
    rows: pd.DataFrame, out: Path, title: str, figures: dict[str, Path], *, skipped: dict[str, str] | None = None
) -> Path:  # fmt: skip
    """Write `out` (or `out`/report.html if `out` does not end in .html) and return its path.

    `figures` maps the name of a figure to its PNG, which is embedded. `skipped` maps the name of a figure that was not drawn to the reason.
    Raises CannotDraw for ambiguous rows, such as two thresholds of one model and setting.
    """
    rows = tidy(rows)
    out = Path(out)
    path = out if out.suffix == ".html" else out / "report.html"
    page = _template().render(
        title=title,
        answers=_by_question(answers(rows)),
        thresholds=[_threshold_line(pair) for pair in pairs(rows)],
        scores=[_score_line(best) for best in best_scores(rows)],
        curvatures=_curvatures(rows),
        curvature_head=CURVATURES,
        targets=_targets(rows),
        figures=[_figure(name, Path(png)) for name, png in figures.items()],
        skipped=skipped or {},
        misfits=misfits(rows),
        unchecked=unchecked(rows),
        ran=what_was_run(rows),
        definitions=DEFINITIONS,
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _template():
    # Autoescape, because names, notes and the title come from the user's files.
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html.j2")


def _by_question(all_answers: list[Answer]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = {}
    for answer in all_answers:
        groups.setdefault(answer.question, []).append(answer)
    return groups


def what_was_run(rows: pd.DataFrame) -> list[str]:
    """Return a few sentences on models, runs and cost. `rows` come from `tidy`."""
    table, sizes = runs(rows), models(rows)
    names = ", ".join(f"{name} ({size:,} parameters)" for name, size in sizes.items())
    tasks = ", ".join(sorted(set(rows["task"]) - {""})) or "no task"
    sentences = [f"{_count(len(sizes), 'model')} on {tasks}: {names}."]
    if len(table):
        counts = [f"{len(of_method)} {method_name(str(method))}" for method, of_method in table.groupby("method")]
        sentences.append(f"{_count(len(table), 'training run')}: {', '.join(counts)}.")
    others = {noun: len(set(where(rows, rows["kind"] == kind)["run_id"])) for kind, noun in OTHER_KINDS.items()}
    if any(others.values()):
        sentences.append(f"Other runs: {', '.join(_counted(count, noun) for noun, count in others.items() if count)}.")
    apet = where(table, table["method"] == "apet")
    if len(apet):
        counts = {kind: len(set(apet[f"{kind}_seed"].dropna())) for kind in ("position", "train")}
        seeds = " and ".join(_count(n, f"{kind} seed") for kind, n in counts.items())
        k = sorted(apet["k"])
        sentences.append(f"APET tuned k = {number(k[0])} to {number(k[-1])} parameters, with {seeds}.")
    cost = table["example_gradients"].dropna().to_numpy().sum()
    if cost:
        sentences.append(f"All training runs together computed {cost:,.0f} gradients of single examples.")
    return sentences


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _counted(n: int, nouns: str) -> str:
    """Return "1 spectrum" or "3 spectra" from "spectrum/spectra"."""
    one, several = nouns.split("/")
    return f"{n} {one if n == 1 else several}"


def _threshold_line(pair: Pair) -> list[str]:
    ratio = "–" if pair.ratio is None else f"{number(pair.ratio.value)} [{number(pair.ratio.low)}, {number(pair.ratio.high)}]"
    return [
        pair.question, pair.model, f"{pair.parameters:,}", number(pair.target), interval(pair.measured), interval(pair.predicted), ratio,
    ]  # fmt: skip


def _score_line(best: Best) -> list[str]:
    return [
        best.setting.label, best.model, method_name(best.method), f"{best.k:,}", best.metric,
        with_error(best.score, best.error), str(best.n), number(best.chance),
    ]  # fmt: skip


def _curvatures(rows: pd.DataFrame) -> list[list[str]]:
    """Return the scalars of each spectrum with standard errors, and its top eigenvalue with the residual."""
    spectra = where(rows, rows["quantity"].isin([*SCALARS, "eigenvalue"]))
    lines = []
    for name in models(spectra):
        of_this = of_model(spectra, name)
        by_matrix = [(_matrix(next(iter(spectrum.itertuples()))), spectrum) for _, spectrum in of_this.groupby("run_id")]
        for matrix, spectrum in sorted(by_matrix, key=lambda pair: pair[0]):
            top = pick(spectrum, "eigenvalue").sort_values(by="value")
            scalars = [_last(pick(spectrum, scalar)) for scalar in SCALARS]
            lines.append([str(spectrum["task"].iloc[0]), name, matrix, number(float(spectrum["k"].iloc[0])), _last(top), *scalars])
    return lines


def _matrix(row: Any) -> str:
    """Return the matrix in words, with the number of sampled labels and the point if the row states them."""
    samples = "" if math.isnan(row.samples) else f" of {row.samples:.0f} sampled labels"
    step = "" if math.isnan(row.at_step) else f" step {row.at_step:.0f}"
    return MATRICES.get(row.matrix, "") + samples + (f" at {row.at_run}{step}" if row.at_run else "")


def _last(rows: pd.DataFrame) -> str:
    if rows.empty:
        return MISSING
    value, stderr = (float(rows[column].iloc[-1]) for column in ("value", "stderr"))
    exact = not QUANTITIES[rows["quantity"].iloc[-1]].interval and math.isnan(stderr)
    return number(value) if exact else with_error(value, stderr)


def _figure(name: str, png: Path) -> dict[str, str]:
    return {"name": name, "data": base64.b64encode(png.read_bytes()).decode("ascii"), "caption": CAPTIONS.get(name, name)}


def _targets(rows: pd.DataFrame) -> list[str]:
    """Return the definitions of the targets, in the words of the rows."""
    stated = where(rows, rows["quantity"].isin(["target_loss", "target_metric"]))
    return [note for note in dict.fromkeys(stated["note"]) if note]
