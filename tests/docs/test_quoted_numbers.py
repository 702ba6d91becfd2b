"""Every number that a page quotes agrees with the committed file it comes from."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.docs import quoted_numbers
from tests.docs.quoted_numbers import ROOT, agrees, faults, pages

ROWS = [
    {"model": "small", "quantity": "k_star", "value": 503.4, "stderr": 9.1, "low": 487.2, "high": 522.4, "x": float("nan")},
    {"model": "large", "quantity": "k_star", "value": 1203.0, "stderr": 20.0, "low": 1190.0, "high": 1214.0, "x": float("nan")},
    {"model": "large", "quantity": "loss", "value": 0.25, "stderr": 0.01, "low": 0.2, "high": 0.3, "x": 1.0},
    {"model": "large", "quantity": "loss", "value": 0.75, "stderr": 0.01, "low": 0.7, "high": 0.8, "x": 2.0},
]
PYTHON = 'def derived():\n    return {"cells": {"k 0.5": {"value": 1.5, "low": 1.25, "high": 2.0}}}\n'
SMALL = "from: rows.parquet, where: {model: small}"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a page in a folder with one file of each sort."""
    monkeypatch.setattr(quoted_numbers, "ROOT", tmp_path)
    pd.DataFrame(ROWS).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "result.json").write_text(json.dumps({"figures": {"error 0.03": 1.23e-7, "list": [{"median": 1.036}]}}))
    (tmp_path / "derived.py").write_text(PYTHON)
    return tmp_path / "page.md"


def found(page: Path, comment: str, block: str) -> list[str]:
    page.write_text(f"# Title\n\n<!-- numbers\n{comment}\n-->\n{block}")
    return faults(page)


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_numbers_of_the_pages_agree_with_their_sources(path: Path) -> None:
    assert faults(path) == []


@pytest.mark.parametrize(
    ("entry", "block"),
    [
        (f'{{{SMALL}, show: "503"}}', "It takes 503 entries.\n\nMore."),
        (f'{{{SMALL}, show: "503 [487, 522]"}}', "| k* | 503 [487, 522] |\n"),
        (f'{{{SMALL}, show: "503.4 +- 9.1"}}', "It takes 503.4 +- 9.1."),
        (f'{{{SMALL}, column: low, show: "487"}}', "At least 487."),
        (f'{{{SMALL}, over: {{model: large, quantity: k_star}}, show: ".42"}}', "A ratio of .42."),
        ('{from: rows.parquet, where: {quantity: loss, x: 1}, show: "25 %"}', "A share of 25 %."),
        ('{from: rows.parquet, where: {quantity: k_star, x: null, model: large}, show: "1,203"}', "Takes\n1,203."),
        ('{from: rows.parquet, where: {quantity: loss}, take: max, show: ".75"}', "Up to .75."),
        ('{from: rows.parquet, where: {quantity: loss, x: 2}, minus: {x: 1}, show: "+.50"}', "Rises by +.50."),
        ('{from: result.json, at: figures.error 0.03, show: "1e-7"}', "```text\n1e-7\n\n```\n"),
        ('{from: result.json, at: figures.list.0.median, show: "1.04"}', "- one\n- 1.04"),
        ('{from: derived.py, at: cells.k 0.5.high, over: cells.k 0.5.low, show: "1.6"}', "A factor of 1.6."),
        ('{from: derived.py, at: cells.k 0.5, show: "1.5 [1.25, 2.0]"}', "1.5 [1.25,\n  2.0]"),
    ],
)
def test_a_right_number_is_accepted(page: Path, entry: str, block: str) -> None:
    assert found(page, f"- {entry}", block) == []


@pytest.mark.parametrize(
    ("entry", "block", "fault"),
    [
        (f'{{{SMALL}, show: "504"}}', "504", "504: value is 503.4 in rows.parquet"),
        (f'{{{SMALL}, show: "503 [480, 522]"}}', "503 [480, 522]", "low is 487.2"),
        ('{from: rows.parquet, where: {model: large}, show: "1,203"}', "1,203", "3 rows instead of one where"),
        ('{from: rows.parquet, where: {model: none}, show: "1"}', "1", "0 rows instead of one"),
        ('{from: rows.parquet, where: {size: 1}, show: "1"}', "1", "no column size"),
        (f'{{{SMALL}, show: "503"}}', "", "no block follows the comment"),
        (f'{{{SMALL}, show: "503"}}', "\n## Heading\n\n503", "no block follows the comment"),
        (f'{{{SMALL}, show: "503"}}', "Nothing here.\n\n503", "does not occur in the block that follows"),
        (f'{{{SMALL}, show: "503"}}', "1,503 or 503.4 or -503", "does not occur"),
        (f'{{{SMALL}, show: "about"}}', "about", "not a number"),
        (f'{{{SMALL}, shown: "503"}}', "503", "unknown fields: shown"),
        ('{where: {model: small}, show: "503"}', "503", "names no file"),
        ('{from: no.parquet, show: "503"}', "503", "no such file"),
        ('{from: result.json, at: figures.nothing, show: "1"}', "1", "no number at figures.nothing"),
        ("{", "503", "not YAML"),
    ],
)
def test_a_wrong_number_a_row_that_is_not_unique_and_a_missing_block_are_found(page: Path, entry: str, block: str, fault: str) -> None:
    assert len(lines := found(page, f"- {entry}", block)) == 1
    assert fault in lines[0]


def test_a_line_without_show_sets_the_source_of_the_lines_below_it(page: Path) -> None:
    shared = "- {from: rows.parquet, where: {quantity: k_star}}\n"
    both = '- {where: {model: small}, show: "503"}\n- {where: {model: large}, show: "1,203"}'
    assert found(page, shared + both, "| 503 | 1,203 |") == []
    assert len(found(page, both, "| 503 | 1,203 |")) == 2


@pytest.mark.parametrize(
    ("shown", "value", "right"),
    [
        (".25", 0.2549, True),
        (".25", 0.2551, False),
        ("0.30", 0.3, True),
        ("−.05", -0.05, True),
        ("1,367", 1367.2, True),
    ],
)
def test_digits_shown_are_the_precision(shown: str, value: float, right: bool) -> None:
    assert agrees(shown, value) == right
    assert not agrees("1", float("nan"))
