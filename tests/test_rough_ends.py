"""Unusual files, names and numbers are read or refused in one line, and printed unchanged."""

import json
import math
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analyses.results.training_table import write_table
from analyses.terminal.printing import _finite
from apet.errors import UsageError
from apet.tasks.task_data import load_task
from cli import app


def call(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def copied(folder: Path, to: Path, change) -> Path:
    """Return the data folder with the bytes of its training file changed."""
    to.mkdir()
    for path in folder.iterdir():
        content = path.read_bytes()
        (to / path.name).write_bytes(change(content) if path.name == "train.jsonl" else content)
    return to


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(folder, tmp_path):
    plain = load_task("sst2", folder).fingerprint
    marked = copied(folder, tmp_path / "bom", lambda content: b"\xef\xbb\xbf" + content)
    windows = copied(folder, tmp_path / "crlf", lambda content: content.replace(b"\n", b"\r\n"))
    assert load_task("sst2", marked).fingerprint == load_task("sst2", windows).fingerprint == plain


def test_the_place_of_an_error_behind_a_byte_order_mark_is_that_of_the_file(folder, tmp_path):
    broken = copied(folder, tmp_path / "bom", lambda content: b"\xef\xbb\xbf" + b'{"sentence": "\xff", "label": 1}\n' + content)
    with pytest.raises(UsageError, match="line 1: byte 0xff at offset 17 of the file"):
        load_task("sst2", broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.replace(b"\n", b"\r"), "line 1: the lines end in carriage returns without line feeds: save"),
        (lambda content: content + b'{"sentence": "a", "sentence": "b", "label": 1}\n', "line 25: the field sentence occurs twice"),
    ],
)
def test_what_cannot_be_read_without_guessing_is_refused_in_one_line(folder, tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        load_task("sst2", copied(folder, tmp_path / "data", change))


@pytest.mark.parametrize("name", ["x[/b]", "x[red]y", "[/INST]"])
def test_brackets_in_names_and_texts_are_no_markup(folder, tmp_path, name):
    missing = tmp_path / name / "none"
    code, _, err = call("train", "--task", "sst2", "--model", "mini-t5-130k", "--k", 5, "--data", missing, "--out", tmp_path)
    assert (code, str(missing) in err.replace(" ", "")) == (3, True)
    quoted = copied(folder, tmp_path / "quoted", lambda content: content + f'{{"sentence": "{name}", "label": "{name}"}}\n'.encode())
    code, _, err = call("train", "--task", "sst2", "--model", "mini-t5-130k", "--k", 5, "--data", quoted, "--out", tmp_path)
    assert code == 2 and f'not "{name}" (text)' in err


def test_cells_of_a_markdown_table_keep_their_pipes_to_themselves(tmp_path):
    lines = [{"model": "a|b", "settings": "scope attention|norms"}, {"model": "c", "settings": ""}]
    write_table(lines, tmp_path / "t.md")
    rows = (tmp_path / "t.md").read_text().splitlines()
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}
    assert r"a\|b" in rows[2]


def test_cells_of_a_latex_table_are_escaped(tmp_path):
    write_table([{"the_model": r"50%_of#1&2_{x}~^$\y"}], tmp_path / "t.tex")
    text = (tmp_path / "t.tex").read_text()
    assert r"50\%\_of\#1\&2\_\{x\}\textasciitilde{}\textasciicircum{}\$\textbackslash{}y \\" in text
    assert r"the\_model" in text


def test_json_has_no_nan():
    found = json.loads(json.dumps(_finite({"a": math.nan, "b": [1.5, math.inf, {"c": -math.inf}], "d": "nan", "e": True}), allow_nan=False))
    assert found == {"a": None, "b": [1.5, None, {"c": None}], "d": "nan", "e": True}
