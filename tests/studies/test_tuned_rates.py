"""The study of thresholds at the best rates trains at the rates that the study of rates found."""

from pathlib import Path

import pytest

from analyses.specs import TrainSpec
from analyses.studies.study_file import read_study
from apet.methods import default_rate
from studies.rows.learning_rates import best_rates

STUDY = Path(__file__).parents[2] / "studies" / "thresholds-tuned.yaml"


def test_each_run_has_the_multiple_of_the_default_rate_that_was_best_at_the_next_k() -> None:
    best = best_rates()
    runs = [spec for spec in read_study(STUDY).known if isinstance(spec, TrainSpec) and spec.method == "apet"]
    assert {spec.model for spec in runs} == set(best)
    for spec in runs:
        assert spec.k and spec.lr
        tried = {int(k): numbers["rate"] for k, numbers in best[spec.model].items()}
        at = min(k for k in tried if k >= spec.k)
        multiple = tried[at] / default_rate("apet", at)
        assert spec.lr / default_rate("apet", spec.k) == pytest.approx(multiple, rel=0.05), spec.title
