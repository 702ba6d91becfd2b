"""A task, a kind of run, an option and a figure are added as CONTRIBUTING describes: one record or file, and at most one line of a table.

Matrices and directions: tests/analyses/runs/test_record_tables.py; methods: tests/apet/methods/test_registry.py.
"""

import sys
from dataclasses import dataclass
from types import ModuleType

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analyses.runs.execute import run
from analyses.runs.run_inputs import row_maker, subsets
from analyses.runs.run_kinds import RUN_KINDS, Kind
from analyses.specs.base import Spec
from analyses.specs.building import spec_dict, spec_from
from analyses.specs.kinds import KINDS, TrainSpec
from analyses.specs.option import option
from analyses.store.rows import COLUMNS
from analyses.store.run_store import VERSIONS, Store
from analyses.terminal.parameters import as_flag, parameters
from apet.errors import UsageError
from apet.tasks.task_table import TASKS, Task
from figures import FIGURES, draw_all


def test_a_task_is_one_entry_of_the_table(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "toy", Task("toy", "{sentence} All in all {slot}.", ("sentence",), ("bad", "good")))
    store = Store(tmp_path)
    spec = spec_from({"model": "mini-t5-130k", "task": "toy", "k": 10, "examples": 4, "early_stop": False, "steps": 2, "batch": 4})
    rows = store.rows(run(spec, store, folder))
    assert {row.task for row in rows} == {"toy"}
    assert any(row.quantity == "accuracy" and row.split == "validation" for row in rows)


@dataclass(frozen=True, kw_only=True)
class CountSpec(Spec):
    kind, words, version, uses = "count", "counts", 1, {}
    stride: int = option("Data", 1, "Count every n-th example.", least=1)


def count_run(spec, inputs, context):
    return [row_maker(spec, inputs)("in_scope", len(subsets(spec, inputs)[0][:: spec.stride]))], {}


def test_a_kind_of_run_is_a_spec_a_run_and_a_line_in_each_table(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "count", CountSpec)
    monkeypatch.setitem(VERSIONS, "count", 1)
    monkeypatch.setitem(RUN_KINDS, "count", Kind(count_run, lambda spec, examples: 0))
    spec = spec_from({"kind": "count", "model": "mini-t5-130k", "task": "sst2", "examples": 6, "stride": 2, "k": 1})
    store = Store(tmp_path)
    name = run(spec, store, folder)
    (row,) = store.rows(name)
    assert (row.kind, row.value, store.spec(name)) == ("count", 3, spec_dict(spec))
    with pytest.raises(UsageError, match="stride = 2 has no effect on training runs: it is for counts"):
        spec_from({"k": 1, "stride": 2})
    assert "stride" in {each.name for each in parameters((CountSpec,))}


@dataclass(frozen=True, kw_only=True)
class WithAnOption(TrainSpec):
    dropout: float = option("Training", 0.0, "Part of the activations that is dropped.", least=0)


def test_an_option_is_one_declaration_and_renames_no_run():
    def identity(spec) -> str:
        return spec.run_id("w", "d")

    assert identity(WithAnOption(k=5)) == identity(TrainSpec(k=5))
    assert identity(WithAnOption(k=5, dropout=0.1)) != identity(TrainSpec(k=5))
    assert {each.name for each in parameters((WithAnOption,))} - {each.name for each in parameters((TrainSpec,))} == {"dropout"}
    assert as_flag("dropout", 0.1, [WithAnOption]) == "--dropout 0.1"
    with pytest.raises(UsageError, match="dropout = -1 must be at least 0"):
        WithAnOption(k=5, dropout=-1)


def test_a_figure_is_one_file_and_one_name(tmp_path, monkeypatch):
    module = ModuleType("figures.plots.toy")
    module.draw = lambda rows: Figure()
    module.data = lambda rows: rows
    monkeypatch.setitem(sys.modules, "figures.plots.toy", module)
    monkeypatch.setitem(FIGURES, "toy", lambda rows: sys.modules["figures.plots.toy"].draw(rows))
    rows = pd.DataFrame(columns=list(COLUMNS))
    names = [path.name for path in draw_all(rows, tmp_path, ["toy"]).written["toy"]]
    assert names == ["toy.pdf", "toy.svg", "toy.png", "toy.csv"]
