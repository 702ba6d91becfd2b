"""The tables of thresholds, claims and methods: their cells, and LaTeX that needs booktabs alone."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from figures.rows import CannotDraw, tidy
from figures.tables import claim_lines, method_lines, threshold_lines, write_tables
from tests.figures.synthetic import BLANK, TWO, findings, study, thresholds_of_metric

NEEDS = {**BLANK, "model": "mini-t5", "parameters": 0, "task": "sst2", "quantity": "claim_needs", "series": "F1"}
ROWS = pd.concat([
    study(TWO, censored=("mini-t5-240k",)), thresholds_of_metric(TWO), findings(TWO, ("sst2",)),
    pd.DataFrame([{**NEEDS, "group": "mini-t5, sst2, rows", "value": 3.2}]),
])  # fmt: skip


def test_thresholds_have_intervals_and_censored_ones_their_bound():
    rows = ROWS.copy()
    star = (rows["quantity"] == "k_star") & (rows["model"] == "mini-t5-240k")
    rows.loc[star, "low"] = 4096.0
    small, large = threshold_lines(tidy(rows))
    assert (small["k*"], large["k*"]) == ("> 4,096", "21 [17.8, 25.2]")
    assert (large["N"], large["N without embeddings"]) == (5_739_776, 3_443_865)
    assert large["high threshold, below-full:0.02"] == "46.2 [32.3, 69.3]"
    assert large["predicted k*"] == "23.1 [20.8, 25.9]"
    rows.loc[star, ["low", "high", "status"]] = [float("nan"), 4.0, "below"]
    assert threshold_lines(tidy(rows))[0]["k*"] == "< 4"
    with pytest.raises(CannotDraw, match="no threshold"):
        threshold_lines(tidy(findings(TWO)))


def test_claims_have_a_line_per_case():
    lines = {line["case"]: line for line in claim_lines(tidy(ROWS))}
    assert lines["mini-t5, sst2, rows"]["times as much data"] == "3.2"
    decided = lines["mini-t5, sst2, below-full:0.02, entries"]
    assert (decided["claim"], decided["verdict"], decided["estimate [95 % CI]"]) == ("F2", "supported", "−0.45 [−0.6, −0.3]")


def test_methods_have_their_score_at_the_largest_k_and_their_gap():
    lines = {(line["model"], line["method"]): line for line in method_lines(tidy(ROWS))}
    apet, lora = (lines["mini-t5-6m", name] for name in ("APET", "LoRA"))
    scores = ROWS.query("model == 'mini-t5-6m' and method == 'apet' and k == 256 and quantity == 'accuracy'")["value"]
    assert apet["score"].startswith(f"{scores.mean():.4f} ± ")
    assert (apet["k"], apet["runs"], apet["less APET [95 % CI]"]) == (256, 3, "–")
    gap = ROWS.query("model == 'mini-t5-6m' and quantity == 'method_gap' and method == 'lora'")["value"].iloc[0]
    assert lora["less APET [95 % CI]"].startswith(f"{gap:.3g} [")


def test_latex_needs_booktabs_alone(tmp_path: Path):
    rows = ROWS.assign(task=ROWS["task"].replace("sst2", "a_b & 50 % #1 of ~x^2"))
    written, skipped = write_tables(rows, tmp_path)
    assert not skipped
    for name, paths in written.items():
        assert [path.name for path in paths] == [f"{name}.csv", f"{name}.tex", f"{name}.md"]
        text = paths[1].read_text(encoding="utf-8")
        assert text.isascii()
        assert set(re.findall(r"\\([a-z]+)", text)) <= {
            "begin", "end", "toprule", "midrule", "bottomrule", "textgreater", "textless", "textasciitilde", "textasciicircum", "pm",
        }  # fmt: skip
        (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
        lines = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(lines) == len(pd.read_csv(paths[0])) + 1
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns) - 1}
        assert not re.search(r"(?<!\\)[_%#^]|~", text.replace("$^*$", ""))


def test_tables_without_rows_are_skipped_with_a_reason(tmp_path: Path):
    written, skipped = write_tables(study(TWO).query("quantity == 'steps'"), tmp_path)
    assert not written and list(skipped) == ["thresholds", "claims", "methods"]
    assert all("in the rows" in reason for reason in skipped.values())
