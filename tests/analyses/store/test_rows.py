"""Rows: invalid columns, rows from JSON and from tables of older versions, and the registry of quantities."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analyses.store import COLUMNS, QUANTITIES, Quantity, Row, completed, frame, quantities, statuses
from analyses.store.quantities import _table
from analyses.store.rows import REQUIRED, from_json, to_json
from apet.scoring import metric_names
from apet.tasks import TASKS

ROOT = Path(__file__).parents[3]
PLACE = Row("m", 10, "t", "slice_loss", 0.5, "r", x=1.0, y=2.0, further=(0.0, -3.0), at_run="a", at_step=20, directions="random")


@pytest.mark.parametrize(("columns", "message"), [({"quantity": "acuracy"}, "acuracy"), ({"status": "censored"}, "censored")])
def test_an_unregistered_quantity_or_status_is_refused(columns: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Row(**{"model": "m", "parameters": 1, "task": "t", "quantity": "loss", "value": 1.0, **columns})


def test_a_row_comes_back_from_json() -> None:
    assert repr(from_json(json.loads(json.dumps(to_json(PLACE))))) == repr(PLACE)


def test_a_row_of_an_older_version_has_the_defaults_of_later_columns() -> None:
    row = from_json({"model": "m", "parameters": 1, "task": "t", "quantity": "loss", "value": None})
    assert repr(row) == repr(Row("m", 1, "t", "loss", math.nan))


def test_a_table_comes_back_from_parquet_with_its_places(tmp_path: Path) -> None:
    frame([PLACE, Row("m", 10, "t", "theta_norm", 2.0)]).to_parquet(tmp_path / "rows.parquet")
    table = completed(pd.read_parquet(tmp_path / "rows.parquet"))
    assert list(table["further"]) == [(0.0, -3.0), ()]
    assert list(table["directions"]) == ["random", ""]


def test_a_table_of_an_older_version_joined_to_a_new_one_has_every_column() -> None:
    old = pd.DataFrame([{name: vars(PLACE)[name] for name in REQUIRED}])
    table = completed(pd.concat([old, frame([PLACE])], ignore_index=True))
    assert tuple(table.columns) == COLUMNS
    assert list(table["at_run"]) == ["", "a"]
    assert list(table["further"]) == [(), (0.0, -3.0)]
    with pytest.raises(ValueError, match="lack the columns quantity"):
        completed(old.drop(columns="quantity"))


def test_points_of_curves_and_members_of_series_are_no_scalars() -> None:
    assert Row("m", 1, "t", "loss", 1.0).is_scalar
    assert not PLACE.is_scalar
    assert not Row("m", 1, "t", "entries", 1.0, series="layer", group="outside").is_scalar


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": "Two words"}, "lower-case"),
        ({"meaning": ""}, "phrase"),
        ({"meaning": "A sentence."}, "full stop"),
        ({"unit": "bits"}, "unit"),
    ],
)
def test_a_quantity_states_its_name_meaning_and_unit(columns: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quantity(**{"name": "one", "meaning": "something", **columns})


def test_a_quantity_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered twice: loss"):
        _table((QUANTITIES["loss"],), (QUANTITIES["loss"], QUANTITIES["trace"]))


def test_every_metric_of_a_task_and_every_kind_of_threshold_is_registered() -> None:
    assert {name for task in TASKS.values() for name in metric_names(task)} <= set(QUANTITIES)
    for name in quantities.MEASURED:
        assert name + quantities.OPEN in QUANTITIES
        assert QUANTITIES[name].interval
    assert set(quantities.ON_LOSS) < set(quantities.MEASURED)
    assert len(set(statuses.STATUSES)) == len(statuses.STATUSES)


def test_the_registry_imports_nothing_heavy() -> None:
    script = "import sys, analyses.store.rows; assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
