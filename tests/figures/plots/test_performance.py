"""The upper panels of the figure, and the table of the report, show the main metric of the task."""

import pandas as pd

from figures.plots.performance import draw
from figures.report.summary_table import best_scores
from figures.report.verdicts import answers
from figures.rows import tidy
from tests.figures.synthetic import ONE, study


def of_matthews() -> pd.DataFrame:
    """Return rows of a task whose runs report the Matthews correlation as the main metric, and accuracy."""
    rows = study(ONE).assign(metric="matthews")
    main = rows[rows["quantity"] == "accuracy"].assign(quantity="matthews")
    return pd.concat([rows, main.assign(value=2 * main["value"] - 1)], ignore_index=True)


def test_the_axis_names_the_main_metric_and_points_have_its_values():
    rows = of_matthews()
    axes = draw(rows).axes[0]
    assert axes.get_ylabel().split() == ["validation", "Matthews", "correlation"]
    drawn = {float(y) for line in axes.lines if line.get_label() == "single APET run" for y in line.get_ydata()}
    apet = rows[(rows["quantity"] == "matthews") & (rows["method"] == "apet")]
    assert drawn == set(apet["value"])


def test_the_report_names_the_main_metric():
    rows = tidy(of_matthews())
    assert {best.metric for best in best_scores(rows)} == {"Matthews correlation"}
    assert any("a validation Matthews correlation of" in answer.sentence for answer in answers(rows))


def test_rows_that_do_not_name_a_metric_have_accuracy():
    rows = study(ONE)
    assert draw(rows).axes[0].get_ylabel().split() == ["validation", "accuracy"]
    assert {best.metric for best in best_scores(tidy(rows))} == {"accuracy"}
