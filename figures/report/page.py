"""One self-contained HTML page of a study: answers and warnings, figures, tables, and how the results were made.

Every sentence and number is made from the rows and from facts about the runs. The page loads nothing, and is complete without its script.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from figures.files import replacing
from figures.interval import Pair
from figures.numbers import interval, number, with_error
from figures.report import curvature_table, run_table
from figures.report.by_target import on_target, pairs_by_target
from figures.report.by_version import usable
from figures.report.claim_list import claims
from figures.report.gallery import alternatives, grouped
from figures.report.summary_table import Best, best_scores
from figures.report.verdicts import Answer, answers
from figures.report.warning_list import CHECKED, unchecked, warnings
from figures.rows import CannotDraw, where
from figures.words import DEFINITIONS, method_name

ROOM = Path(__file__).parent


def write_report(
    rows: pd.DataFrame, out: Path, title: str, figures: dict[str, Path], *, skipped: dict[str, str] | None = None,
    facts: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write `out` (or `out`/report.html if `out` does not end in .html) and return its path.

    `figures` maps the name of a figure to its PNG, which is embedded. `skipped` maps the name of a figure that was not drawn to the reason.
    `facts` are the facts about the runs that `analyses.results.reported` returns. Raises CannotDraw if no row is left or if the rows of one
    run contradict each other.
    """
    rows, older = usable(rows)
    if rows.empty:
        raise CannotDraw("there are no rows" + "".join(f"; {sentence}" for sentence in older))
    out = Path(out)
    path = out if out.suffix == ".html" else out / "report.html"
    rest = where(rows, rows["kind"] != "finding")  # models and tasks of findings are often pools of several
    judged = _judged(rest, figures)
    shown = [figure.name for group in judged["groups"] for figure in group.figures]
    page = _template().render(
        judged | _tables(rest, facts or {}) | _charts(rest),
        title=title, older=older, claims=claims(rows, shown), skipped=skipped or {}, checked=CHECKED, definitions=DEFINITIONS,
    )  # fmt: skip
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _template():
    # Autoescape, because names, notes and the title come from the user's files.
    environment = Environment(
        loader=FileSystemLoader(ROOM), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {name: (ROOM / f"report.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    return environment.get_template("report.html.j2")


def _judged(rows: pd.DataFrame, figures: dict[str, Path]) -> dict[str, Any]:
    """Return the answers, the warnings, and the figures and tables that need thresholds or scores."""
    best, thresholds = best_scores(rows), pairs_by_target(rows)
    return {
        "answers": _by_question(answers(rows)),
        "thresholds": [_threshold_line(pair, target) for target, found in thresholds.items() for pair in found],
        "scores": [_score_line(each) for each in best],
        "groups": grouped(figures, alternatives(rows, thresholds, best), thresholds),
        "warnings": warnings(rows),
        "unchecked": unchecked(rows),
        "targets": _targets(rows),
    }


def _tables(rows: pd.DataFrame, facts: dict[str, Any]) -> dict[str, Any]:
    measured = facts.get("runs")
    return {
        "curvatures": curvature_table.curvatures(rows), "curvature_head": curvature_table.CURVATURES,
        "slices": curvature_table.slices(rows), "slice_head": curvature_table.SLICES,
        "training_runs": run_table.training_runs(rows, measured), "runs_head": run_table.RUNS_HEAD,
        "costs": run_table.costs(rows, measured), "cost_head": run_table.COST_HEAD,
        "ran": run_table.ran(rows), "source": facts.get("source", ""), "recorded": measured is not None,
        "commands": [(command, count) for command, count in facts.get("commands", {}).items()],
        "environments": [list(environment.values()) for environment in facts.get("environments", [])],
    }  # fmt: skip


def _charts(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the data of the interactive charts, and plotly's program if there is a chart."""
    from figures.report import interactive  # loads matplotlib

    charts = {"spectra": interactive.spectra(rows), "surfaces": interactive.surfaces(rows)}
    charts = {name: data for name, data in charts.items() if data}
    return {"charts": {name: interactive.as_json(data) for name, data in charts.items()}, "plotly": interactive.script() if charts else ""}


def _by_question(all_answers: list[Answer]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = {}
    for answer in all_answers:
        groups.setdefault(answer.question, []).append(answer)
    return groups


def _threshold_line(pair: Pair, target: str) -> list[str]:
    ratio = "–" if pair.ratio is None else f"{number(pair.ratio.value)} [{number(pair.ratio.low)}, {number(pair.ratio.high)}]"
    return [
        on_target(pair.question, target), pair.model, f"{pair.parameters:,}", number(pair.target), interval(pair.measured),
        interval(pair.predicted), ratio,
    ]  # fmt: skip


def _score_line(best: Best) -> list[str]:
    return [
        best.setting.label, best.model, method_name(best.method), f"{best.k:,}", best.metric,
        with_error(best.score, best.error), str(best.n), number(best.chance),
    ]  # fmt: skip


def _targets(rows: pd.DataFrame) -> list[str]:
    """Return the definitions of the targets, in the words of the rows."""
    stated = where(rows, rows["quantity"].isin(["target_loss", "target_metric"]))
    return [note for note in dict.fromkeys(stated["note"]) if note]
