"""All rows of a folder of results as one table: rows of runs, of thresholds, and of findings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.findings import CLAIMS, EXPLAINED_ROWS, FINDING_ROWS, explain, findings, placement_rows
from analyses.runs import Report
from analyses.store import Row, Store, completed, frame, quantities
from analyses.thresholds import Run, Target, finished, known_targets, thresholds, whole
from apet.errors import ApetError, MissingInput, UsageError
from apet.files import atomic_path

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Results:
    """The finished runs of a store, and the targets of its thresholds."""

    store: Store
    runs: list[Run]
    targets: list[Target]

    def on_loss(self) -> Target:
        """Return the target on the training loss. Raises UsageError if there is none."""
        if not (found := [target for target in self.targets if target.on_loss]):
            raise UsageError(f"{self.store.root} has no threshold on the training loss", target="fraction:0.9")
        return found[0]

    @classmethod
    def of(cls, folder: Path, target: Target | None = None, every: bool = False) -> Results:
        """Read the results in `folder`.

        `target` is added to the stored targets. If it is on the training loss, it replaces the stored targets on the training loss. At most
        one target is on the training loss, unless `every` is true.

        Raises MissingInput without a finished run, and UsageError if the user must choose among several targets.
        """
        store = Store(folder)
        runs = finished(store)
        if not runs:
            raise MissingInput(f"no finished run in {folder}: start a study first, for instance 'python cli.py study studies/demo.yaml'")
        targets = [known for known in known_targets(store) if target is None or not (known.on_loss and target.on_loss)]
        targets += [] if target is None or target in targets else [target]
        on_loss = [str(known) for known in targets if known.on_loss]
        if len(on_loss) > 1 and not every:
            raise UsageError(f"{folder} holds thresholds for {', '.join(on_loss)}, but only one target can be used", target=on_loss[0])
        return cls(store, runs, targets)

    def thresholds(self, targets: list[Target]) -> list[Row]:
        """Return the rows of the thresholds for `targets`."""
        return [row for target in targets for row in thresholds(self.store, self.runs, target)]

    def rows(self) -> DataFrame:
        """Return all rows: of runs, placements and thresholds, and the rows written by 'explain' and 'findings'."""
        import pandas as pd

        table = frame([row for run in whole(self.runs) for row in run.rows] + placement_rows(self.runs) + self.thresholds(self.targets))
        written = [self.store.root / name for name in (EXPLAINED_ROWS, FINDING_ROWS)]
        return pd.concat([table, *(read_rows(path) for path in written if path.is_file())], ignore_index=True)


def rows_of(results: Path, target: Target | None, every: bool = False) -> DataFrame:
    """Return all rows of a folder of results (`Results.of`), or the rows of a .parquet file. Raises UsageError for a target with a file."""
    if results.suffix != ".parquet":
        return Results.of(results, target, every).rows()
    if target is not None:
        raise UsageError(f"a target has no effect on {results}, whose thresholds were computed when the file was written")
    return read_rows(results)


def explained(results: Results, target: Target) -> tuple[DataFrame, list[dict[str, Any]]]:
    """Return (rows, one summary per pair of models) of the causes of the change of k* with scale. The rows are stored with the runs.

    Raises ApetError if no two models can be compared.
    """
    on_loss = [known for known in results.targets if known.on_loss]
    rows, summaries = explain(results.store, results.runs, target, results.thresholds(on_loss))
    if not summaries:
        raise ApetError(
            f"no two models can be compared in {results.store.root}: run predictions and full fine-tuning of two models of one family"
        )
    table = frame(rows)
    with atomic_path(results.store.root / EXPLAINED_ROWS) as temporary:
        table.to_parquet(temporary)
    return table, summaries


def concluded(rows: DataFrame, similar: float, out: Path | None, report: Report = lambda *_: None) -> list[dict[str, Any]]:
    """Return one JSON object per verdict of the findings. The rows of the findings are written to the .parquet file `out`, if given.

    Raises UsageError for a table without the columns of rows.
    """
    try:
        rows = completed(rows)
    except ValueError as reason:
        raise UsageError(f"no findings follow from this table: {reason}") from None
    found = findings(rows, similar, report)
    if out is not None:
        with atomic_path(out) as temporary:
            frame(found).to_parquet(temporary)
    needs = {(row.series, row.group): row.value for row in found if row.quantity == quantities.CLAIM_NEEDS}
    return [
        {
            "claim": row.series, "statement": CLAIMS[row.series].statement, "case": row.group, "verdict": row.status,
            **{name: _or_none(getattr(row, name)) for name in ("value", "low", "high", "p")},
            "times_as_much_data": _or_none(needs.get((row.series, row.group), math.nan)), "figure": CLAIMS[row.series].figure,
            "sentence": row.note,
        }
        for row in found if row.quantity == quantities.CLAIM
    ]  # fmt: skip


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def read_rows(path: Path) -> DataFrame:
    """Return the rows of a .parquet file written by 'table --rows'. Raises MissingInput or UsageError if the file cannot be read."""
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise MissingInput(f"no file {path}") from None
    except Exception as error:  # pyarrow has its own error types
        raise UsageError(f"{path} is not a readable file of rows: {' '.join(str(error).split())}") from error
