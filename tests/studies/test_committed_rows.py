"""The committed rows: they have the columns of a row and registered quantities, and the converter makes them from the old form."""

from pathlib import Path

import pandas as pd
import pytest

from analyses.findings import cells
from analyses.store import COLUMNS, QUANTITIES, statuses
from figures import FIGURES
from figures.rows import tidy
from studies.rows.convert import converted

FILES = sorted((Path(__file__).parents[2] / "studies" / "rows").glob("*.parquet"))
TABLES = ("families", "twins", "twins-test")  # lines of `table`, which are no rows
DRAWN = [("placements", "placements"), ("prediction", "quadratics"), ("predict-ladder", "attribution"), ("trajectory", "contours")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_committed_rows_have_the_columns_and_registered_quantities(path: Path) -> None:
    rows = pd.read_parquet(path)
    if path.stem in TABLES:
        assert "quantity" not in rows
        return
    assert tuple(rows.columns) in (COLUMNS, tuple(name for name in COLUMNS if name != "metric"))  # older rows: built-in tasks only
    assert set(rows["quantity"]) <= set(QUANTITIES)
    assert set(rows["status"]) <= set(statuses.STATUSES)
    of_spectra = rows[rows["kind"] == "spectrum"]
    assert set(of_spectra["matrix"]) <= {"hessian", "ggn", "fisher"}
    assert (rows[rows["kind"] == "slice"]["directions"] != "").all()
    assert (rows[rows["quantity"].isin(["entries", "block_trace"])]["group"] != "").all()


@pytest.mark.parametrize(("name", "figure"), DRAWN)
def test_figures_draw_from_the_committed_rows(name: str, figure: str) -> None:
    path = next(path for path in FILES if path.stem == name)
    assert FIGURES[figure](pd.read_parquet(path)).axes


def test_cells_of_the_committed_rows_are_scored_as_their_kind_says() -> None:
    found = cells(tidy(pd.read_parquet(next(path for path in FILES if path.stem == "predict-ladder"))))
    assert len(found) == 120
    assert sum(cell.over_rank for cell in found) == 76


OLD = {"model": "m", "parameters": 1, "task": "t", "value": 1.0, "x": float("nan"), "run_id": "r"}


@pytest.mark.parametrize(
    ("kind", "quantity", "note", "columns"),
    [
        ("spectrum", "block_trace", "ggn of 8 sampled labels at 0ab1 step 20; layer: encoder 0",
         {"matrix": "ggn", "samples": 8, "at_run": "0ab1", "at_step": 20, "series": "layer", "group": "encoder 0"}),
        ("spectrum", "products", "hessian; lanczos", {"matrix": "hessian", "series": "lanczos", "at_run": ""}),
        ("slice", "slice_loss", "random; axis 3 at 0, axis 4 at -1.5", {"directions": "random", "further": (0.0, -1.5)}),
        ("slice", "barrier", "optima at 0ab1; to 1cd2, 3ef4; curve", {"directions": "optima", "at_run": "0ab1", "series": "curve"}),
        ("slice", "basin_width", "ggn; in units of |theta|, to 0.1 nats above; censored: above 4, no ray met it", {"status": "above"}),
        ("threshold", "k_gm", "censored: above (why)", {"status": "above", "note": "why"}),
        ("threshold", "k_star", "undecided: why", {"status": "undecided", "note": "why"}),
        ("threshold", "path_loss", "m0", {"quantity": "path_envelope", "series": "m0", "note": ""}),
        ("threshold", "slope", "of the probit", {"series": "probit"}),
        ("threshold", "gap", "failed training", {"status": "failed training"}),
        ("", "explain_verdict", "from s; not explained: why", {"other_model": "s", "status": "not explained", "note": "why"}),
        ("", "explained_gap", "from s; by rank", {"other_model": "s", "series": "rank"}),
        ("", "placement_correlation", "p 0.02", {"p": 0.02}),
        ("", "quadratic_k T3", "i^-1; a^2 ~ l", {"quantity": "quadratic_k", "series": "T3", "note": "i^-1; a^2 ~ l"}),
        ("train", "entries", "kind: norms", {"series": "kind", "group": "norms"}),
    ],
)  # fmt: skip
def test_the_converter_reads_the_notes_of_the_old_form(kind: str, quantity: str, note: str, columns: dict) -> None:
    row = converted(pd.DataFrame([{**OLD, "kind": kind, "quantity": quantity, "note": note}])).iloc[0]
    assert {name: row[name] for name in columns} == columns


def test_the_converter_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="no matrix in the note of trace"):
        converted(pd.DataFrame([{**OLD, "kind": "spectrum", "quantity": "trace", "note": "of something"}]))
    with pytest.raises(ValueError, match="unregistered quantities: nonsense"):
        converted(pd.DataFrame([{**OLD, "kind": "train", "quantity": "nonsense", "note": ""}]))
