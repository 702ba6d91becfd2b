"""The written files: their names, equal bytes when drawn twice, reasons for skipped figures, and lazy imports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from figures import FIGURES, PAGES, Drawn, draw_all
from figures.style import save
from tests.figures.conftest import ABSENT, DRAWN, rows_drawn
from tests.figures.synthetic import MODELS, study

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_every_figure_is_written_in_all_formats(drawn: Drawn):
    assert {*drawn.written, *drawn.skipped} == set(FIGURES)
    assert tuple(drawn.skipped) == ABSENT
    assert list(drawn.tables) == ["thresholds", "claims", "methods"]
    for name, paths in drawn.written.items():
        suffixes = [".pdf", ".svg", ".png", ".csv", *([".html"] if name in PAGES else [])]
        assert [path.name for path in paths] == [f"{name}{suffix}" for suffix in suffixes]
        assert [path.read_bytes()[:4] for path in paths[:3]] == [b"%PDF", b"<?xm", b"\x89PNG"]
        assert sorted(paths[0].parent.glob(".*")) == []


@pytest.mark.long
def test_drawing_twice_gives_the_same_bytes_in_any_order_of_rows(drawn: Drawn, tmp_path: Path):
    again = draw_all(rows_drawn().sample(frac=1, random_state=1), tmp_path)
    for name, paths in drawn.written.items():
        assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again.written[name]]


@pytest.mark.long
def test_the_data_of_a_figure_are_all_that_it_draws(drawn: Drawn, tmp_path: Path):
    for name, paths in drawn.written.items():
        rows = pd.read_csv(paths[3], keep_default_na=False, na_values=[""])
        again = draw_all(rows, tmp_path, [name])
        assert again.written[name][2].read_bytes() == paths[2].read_bytes(), name
        assert again.written[name][3].read_bytes() == paths[3].read_bytes(), name


@pytest.mark.long
def test_fonts_are_embedded_as_truetype(drawn: Drawn):
    for pdf, *_ in drawn.written.values():
        assert b"/Type3" not in pdf.read_bytes()
        assert b"/FontFile2" in pdf.read_bytes()


@pytest.mark.long
def test_the_page_of_surfaces_loads_nothing_and_holds_every_plane(drawn: Drawn):
    page = drawn.written["relief"][4].read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]+src=|<link|@import", page)
    own = page[page.rindex("Plotly.newPlot") :]  # after plotly's program
    assert not re.search(r"https?://(?!www\.w3\.org)", own)
    assert all(f'"label":"{model}, sst2, trajectory, tuned"' in own for model in DRAWN)


def test_a_figure_is_written_in_all_formats_with_its_fonts_and_some_as_a_page(tmp_path: Path):
    """Test drawing quickly, on one model (see the tests below)."""
    drawn = draw_all(study({"mini-t5-6m": MODELS["mini-t5-6m"]}), tmp_path, ["crossing", "relief"])
    assert [path.name for paths in drawn.written.values() for path in paths] == [
        "crossing.pdf", "crossing.svg", "crossing.png", "crossing.csv",
        "relief.pdf", "relief.svg", "relief.png", "relief.csv", "relief.html",
    ]  # fmt: skip
    pdf, svg, png, _ = (path.read_bytes() for path in drawn.written["crossing"])
    assert pdf.startswith(b"%PDF") and b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert png.startswith(b"\x89PNG") and b"<dc:date>" not in svg
    data = pd.read_csv(drawn.written["crossing"][3])
    assert set(data["quantity"]) == {"gap", "slope", "k_star"} and len(data.query("quantity == 'gap'")) == 12
    assert not data.isna().all().any()


@pytest.mark.parametrize("name", ["crossing", "thresholds"])
def test_equal_rows_give_equal_bytes_and_the_data_alone_give_the_same_figure(name: str, tmp_path: Path):
    rows = study({"mini-t5-6m": MODELS["mini-t5-6m"]})
    first, second = (draw_all(rows.sample(frac=1, random_state=seed), tmp_path / str(seed), [name]).written[name] for seed in (0, 1))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    read = pd.read_csv(first[3])
    third = draw_all(read, tmp_path / "again", [name]).written[name]
    assert [path.read_bytes() for path in third] == [path.read_bytes() for path in first]


def test_figures_without_rows_are_skipped_with_a_reason(tmp_path: Path):
    drawn = draw_all(study().query("quantity == 'steps'"), tmp_path)
    assert not drawn.written
    assert set(drawn.skipped) == {*FIGURES, "table of thresholds", "table of claims", "table of methods"}
    assert all("in the rows" in reason for reason in drawn.skipped.values())
    assert list(tmp_path.iterdir()) == []


def test_rows_without_a_column_are_skipped_with_its_name(tmp_path: Path):
    drawn = draw_all(pd.DataFrame({"model": []}), tmp_path)
    assert all("lack the columns parameters, task" in reason for reason in drawn.skipped.values())


def test_an_unknown_figure_is_named_with_the_nearest(tmp_path: Path):
    with pytest.raises(ValueError, match="did you mean spectra"):
        draw_all(study(), tmp_path, only=["spectrum"])


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path):
    class Broken:
        def savefig(self, path: Path, **_: object) -> None:
            path.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save(Broken(), tmp_path, "x")  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


LIGHT = [
    ("figures", ["matplotlib", "pandas"]),
    ("figures.report.page", ["matplotlib", "torch"]),
    ("figures.plots.cells", ["torch", "transformers"]),
]


@pytest.mark.parametrize(("module", "forbidden"), LIGHT)
def test_import_is_light(module: str, forbidden: list[str]):
    code = f"import sys, {module}; print([m for m in {forbidden!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
