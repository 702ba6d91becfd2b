"""The report and the summary: their contents, and that they claim no more than the rows."""

from __future__ import annotations

import base64
import gzip
import math
import re
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from plotly.offline import get_plotlyjs

from figures.interval import Interval, Ratio
from figures.numbers import interval, with_error
from figures.report.page import write_report
from figures.report.summary_table import summary_table
from figures.report.verdicts import answers
from figures.report.warning_list import unchecked, warnings
from figures.rows import CannotDraw, tidy
from tests.figures.synthetic import KS, MODELS, change, study

SMALL, LARGE = "mini-t5-240k", "mini-t5-6m"


def misfits(rows: pd.DataFrame) -> list[str]:
    return [sentence for warning in warnings(rows) for sentence in warning.sentences]


def words(path: Path) -> str:
    """Return the page's visible text."""
    page = re.sub(r"<(style|script)[ >].*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def verdict(rows: pd.DataFrame) -> str:
    return " ".join(found.word for found in answers(tidy(rows)) if found.question == "Does k* change with scale?").removeprefix("it ")


def test_report_loads_nothing(tmp_path: Path, pngs: dict[str, Path]):
    page = write_report(study(), tmp_path, "Study", pngs).read_text(encoding="utf-8")
    repeated = {"cells", "n_eff", "relief"} & set(pngs)  # they show again what predictions, spectra and contours show
    assert set(re.findall(r'<figure id="figure-(\w+)">', page)) == set(pngs) - repeated
    assert page.count("data:image/png;base64,") == len(pngs) - len(repeated)
    assert all(f"The figure “{name}” shows" in page for name in repeated)
    rest = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?://|<script[^>]* src|<link|@import|url\(", rest)
    assert "default-src 'none'" in page


def test_plotly_is_embedded_once_and_only_for_a_chart(tmp_path: Path):
    rows = study({LARGE: MODELS[LARGE]})
    pages = {name: write_report(rows[rows["kind"].isin(kinds)], tmp_path / name, "Study", {}).read_text() for name, kinds in
             (("both", ["spectrum", "slice"]), ("neither", ["train"]))}  # fmt: skip
    assert (pages["both"].count('id="plotly"'), pages["neither"].count('id="plotly"')) == (1, 0)
    (program,) = re.findall(r'id="plotly">([A-Za-z0-9+/=]+)</script>', pages["both"])
    assert gzip.decompress(base64.b64decode(program)).decode() == get_plotlyjs()
    assert len(pages["both"]) < 3e6 and len(pages["neither"]) < 1e5


def test_report_contains_the_numbers(tmp_path: Path, pngs: dict[str, Path]):
    text = words(write_report(study(censored=("mini-t5-790k",)), tmp_path, "Study", pngs))
    for expected in (
        "96 [81.6, 115]", "76.8 [69.1, 86]", "0.277", "censored: above 256", "241,248", "0.509",
        "72 training runs: 48 APET, 12 full fine-tuning, 12 LoRA. Other runs: 4 spectra, 12 slices.", "41.0 ± 1.1",
        "95 % bootstrap interval over runs", "5,529,600 gradients of single examples",
    ):  # fmt: skip
        assert expected in text
    rows = study()
    full = rows[(rows["model"] == LARGE) & (rows["method"] == "full") & (rows["quantity"] == "accuracy")]
    runs, sampled = np.asarray(full["value"], float), np.asarray(full["stderr"], float)
    assert with_error(runs.mean(), math.hypot(sampled.mean(), runs.std(ddof=1) / math.sqrt(3))) in text


def test_report_escapes_everything(tmp_path: Path, pngs: dict[str, Path]):
    rows = change(study(), SMALL, "k_star", note="<script>alert(1)</script>")
    rows["model"] = rows["model"].replace(SMALL, "<img src=x>")
    page = write_report(rows, tmp_path / "own.html", "a < b & <b>c</b>", pngs, skipped={"x": "<i>"}).read_text()
    assert not re.search(r"<script>alert|<img src=x|<b>c|<i>", page)
    assert (tmp_path / "own.html").exists()


def test_report_of_few_rows_says_what_is_absent(tmp_path: Path):
    rows = study().query("quantity == 'loss'")
    text = words(write_report(rows, tmp_path, "Few", {}, skipped={"spectra": "no eigenvalue"}))
    for expected in ("The rows hold no threshold.", "no validation score", "was not drawn: no eigenvalue",
                     "72 of 72 training runs do not state whether they reached their plateau"):  # fmt: skip
        assert expected in text
    assert "so no question can be answered" in text


@pytest.mark.parametrize(("low", "high", "word"), [(17, 26, "falls"), (60, 130, "undecided"), (300, 400, "rises")])
def test_verdict_follows_the_intervals_of_smallest_and_largest_model(low: float, high: float, word: str):
    assert verdict(change(study(), LARGE, "k_star", value=math.sqrt(low * high), low=low, high=high)) == word


def test_a_ratio_has_the_coverage_of_its_parts():
    """Check that the 95 % interval of the ratio of two k with normal logs covers the true ratio in 95 %."""
    rng, sd, covered = np.random.default_rng(0), (0.1, 0.2), 0
    for _ in range(2000):
        one, other = (math.log(k) + s * rng.normal() for k, s in zip((20.0, 30.0), sd, strict=True))
        logs = zip((one, other), (1.96 * s for s in sd), strict=True)
        ratio = Ratio.of(*(Interval(math.exp(x), math.exp(x - s), math.exp(x + s), math.nan, "") for x, s in logs))
        assert ratio is not None
        covered += ratio.low <= 20 / 30 <= ratio.high
    assert 0.935 < covered / 2000 < 0.965


def test_a_ratio_is_within_a_factor_only_if_its_whole_interval_is():
    assert Ratio(1.0, 0.6, 1.8).is_within(2) is True
    assert Ratio(1.0, 0.4, 1.8).is_within(2) is None
    assert Ratio(3.0, 2.1, 4.0).is_within(2) is False
    assert Ratio(1.0, math.nan, 1.8).is_within(2) is None


def test_verdict_is_undecided_where_the_facing_end_is_not_known():
    assert verdict(change(study(), LARGE, "k_star", high=math.nan)) == "undecided"
    assert verdict(change(study(), LARGE, "k_star", low=math.nan)) == "falls"


def test_sizes_of_two_families_are_not_compared():
    other = study({"mini-bloom-3m": 3_338_496})
    found = [each.sentence for each in answers(tidy(pd.concat([study(), other]))) if each.question == "Does k* change with scale?"]
    assert len(found) == 2
    assert "from 96 [81.6, 115] for mini-t5-240k to 21 [" in found[0] and found[0].endswith("for mini-t5-6m.")
    assert "k* was measured for one size only" in found[1] and "mini-bloom-3m" in found[1]


def test_predictions_are_judged_by_the_interval_of_their_ratio():
    def word(rows: pd.DataFrame) -> str:
        return next(found.word for found in answers(tidy(rows)) if found.question == "Is k* predicted without training?")

    rows = study()  # ratios .8, 1.25, .42 and 1.1
    assert word(rows) == "undecided"  # the interval of .42 reaches one half
    assert word(change(rows, "mini-t5-2m", "k_gm", value=11.0, low=10.0, high=12.0)) == "no"
    close = change(rows, "mini-t5-2m", "k_gm", value=44.0, low=40.0, high=49.0)
    assert word(close) == "yes"
    assert word(change(close, "mini-t5-2m", "k_gm", low=math.nan, high=math.nan)) == "undecided"


def test_a_task_is_learned_from_five_standard_errors_above_chance_on():
    rows = study({LARGE: MODELS[LARGE]})
    (found,) = (found for found in answers(tidy(rows)) if found.question == "Is the task learned?")
    assert found.word == "yes"
    rows.loc[rows["quantity"] == "accuracy", "value"] = 0.52
    (found,) = (found for found in answers(tidy(rows)) if found.question == "Is the task learned?")
    assert found.word == "undecided"


def test_verdict_with_censored_thresholds_uses_the_known_bound_only():
    assert verdict(study(censored=(SMALL,))) == "falls"  # above 256 against [18, 25]
    assert verdict(study(censored=(SMALL, LARGE))) == "undecided"
    assert verdict(change(study(censored=(SMALL,)), SMALL, "k_star", low=math.nan)) == "undecided"
    assert verdict(study({SMALL: MODELS[SMALL]})) == "undecided"


def test_undecided_is_in_the_report(tmp_path: Path):
    rows = change(study(), LARGE, "k_star", value=70.0, low=17.0, high=120.0)
    text = words(write_report(rows, tmp_path, "Study", {}))
    assert "Undecided. On sst2, measured k* changes by a factor of 0.729" in text
    assert "the interval of the factor includes 1" in text


def test_an_open_interval_has_its_reason_in_the_page_and_the_table(tmp_path: Path):
    rows = change(study(), LARGE, "k_star", high=math.nan)
    star = rows[(rows["model"] == LARGE) & (rows["quantity"] == "k_star")]
    rows = pd.concat([rows, star.assign(quantity="k_star_open", value=3.0, note="no upper end: why")])
    assert "mini-t5-6m on sst2: measured k* has no upper end: why." in words(write_report(rows, tmp_path, "Study", {}))
    assert summary_table(rows)[-1]["why_open"] == "k_star has no upper end: why"


def test_everything_that_does_not_fit_is_said():
    found = "\n".join(misfits(tidy(study(censored=("mini-t5-790k",)))))
    for expected in (
        "mini-t5-2m on sst2: predicted k / measured k* is 0.42, outside a factor of 2.",
        "mini-t5-2m on sst2: measured 44 [37.4, 52.8] and predicted 18.5 [16.6, 20.7] are disjoint.",
        "mini-t5-790k on sst2: measured k* is censored: above 256.",
        "mini-t5-6m on sst2, APET: 1 of 12 runs (k = 256) did not reach the plateau; largest residual gradient 0.0009.",
        "mini-t5-240k on sst2, APET: 1 of 12 runs (k = 4) did not exceed chance by 2 standard errors.",
    ):
        assert expected in found
    assert "mini-t5-6m on sst2: " not in found


def test_a_study_that_fits_has_no_misfits():
    rows = study({LARGE: MODELS[LARGE]})
    rows.loc[rows["quantity"] == "plateau", "value"] = 1.0
    assert misfits(tidy(rows)) == []
    assert unchecked(tidy(rows)) == []


def test_runs_without_a_standard_error_are_not_judged():
    rows = change(study({LARGE: MODELS[LARGE]}), LARGE, "accuracy", stderr=math.nan, value=0.4)
    assert not any("chance" in sentence for sentence in misfits(tidy(rows)))
    assert any("18 of 18 training runs do not state whether they are above chance" in s for s in unchecked(tidy(rows)))


def test_summary_has_a_line_a_model_and_none_for_what_is_absent():
    lines = summary_table(study(censored=(SMALL,)).query("method != 'lora'"))
    assert [line["model"] for line in lines] == list(MODELS)
    first = lines[0]
    assert (first["k_star"], first["k_star_low"], first["score_lora"]) == (None, 256.0, None)
    assert (first["k_star_censored"], first["k_predicted_censored"]) == ("above", None)
    assert first["k_predicted"] == pytest.approx(76.8)
    assert first["chance"] == 0.509


def test_best_apet_is_the_best_mean_not_the_best_run():
    rows = study({LARGE: MODELS[LARGE]})
    apet = rows[(rows["quantity"] == "accuracy") & (rows["method"] == "apet")]
    best = max(apet[apet["k"] == k]["value"].mean() for k in KS)
    assert summary_table(rows)[0]["score_apet"] == pytest.approx(best)


def test_contradicting_rows_are_refused():
    rows = study({LARGE: MODELS[LARGE]})
    again = rows[rows["quantity"] == "accuracy"].assign(value=0.1)
    with pytest.raises(CannotDraw, match="several rows of main metric"):
        summary_table(pd.concat([rows, again]))


def test_a_threshold_that_runs_do_not_tell_says_why():
    rows = change(
        study(), LARGE, "k_star", value=math.nan, low=math.nan, high=math.nan, status="undecided", note="no run has a gap to the target"
    )
    assert "mini-t5-6m on sst2: measured k* has no value: no run has a gap to the target." in misfits(tidy(rows))
    assert summary_table(rows)[-1]["why_open"] == "k_star has no value: no run has a gap to the target"


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.83412, 0.0123, "0.834 ± 0.012"), (41.0, 1.1, "41.0 ± 1.1"), (12345.6, 120.0, "12,346 ± 120"),
        (0.5, math.nan, "0.5 (no s.e.)"), (math.nan, 1.0, "–"), (2e-9, 3e-10, "2e-09 ± 3e-10"),
    ],
)  # fmt: skip
def test_numbers_are_rounded_by_their_standard_error(value: float, stderr: float, text: str):
    assert with_error(value, stderr) == text


def test_intervals_state_their_censoring():
    nan = math.nan
    assert interval(Interval(nan, nan, nan, nan, "above")) == "censored: above"
    assert interval(Interval(nan, nan, 4.0, nan, "below")) == "censored: below 4"
    assert interval(Interval(nan, nan, nan, nan, "")) == "censored: no value"
    assert interval(Interval(21.0, 18.0, 25.0, nan)) == "21 [18, 25]"
