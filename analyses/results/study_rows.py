"""Everything that a folder of results says, as one table of rows: the runs', their thresholds, and what was concluded from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.findings import EXPLAINED_ROWS, explain, placement_rows
from analyses.store import Row, Store, frame
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

    @classmethod
    def of(cls, folder: Path, target: Target | None = None, every: bool = False) -> Results:
        """Read the results in `folder`. At most one target is on the training loss, unless `every` one is wanted; `target` replaces it.

        Raises MissingInput where no run has finished, UsageError where the choice of a target is the user's.
        """
        store = Store(folder)
        runs = finished(store)
        if not runs:
            raise MissingInput(f"no finished run under {folder}: run a study first, for instance 'python cli.py study studies/demo.yaml'")
        targets = [known for known in known_targets(store) if target is None or not (known.on_loss and target.on_loss)]
        targets += [] if target is None or target in targets else [target]
        on_loss = [str(known) for known in targets if known.on_loss]
        if len(on_loss) > 1 and not every:
            raise UsageError(f"{folder} holds thresholds for {', '.join(on_loss)}, of which one must be chosen", target=on_loss[0])
        return cls(store, runs, targets)

    def thresholds(self, targets: list[Target]) -> list[Row]:
        return [row for target in targets for row in thresholds(self.store, self.runs, target)]

    def rows(self) -> DataFrame:
        """All rows: of the runs, of placements, of thresholds, and those that 'explain' wrote."""
        import pandas as pd

        table = frame([row for run in whole(self.runs) for row in run.rows] + placement_rows(self.runs) + self.thresholds(self.targets))
        explained = self.store.root / EXPLAINED_ROWS
        return pd.concat([table, read_rows(explained)], ignore_index=True) if explained.is_file() else table


def rows_of(results: Path, target: Target | None, every: bool = False) -> DataFrame:
    """Return all rows of a folder of results (`Results.of`), or the rows of a .parquet file."""
    if results.suffix != ".parquet":
        return Results.of(results, target, every).rows()
    if target is not None:
        raise UsageError(f"a target has no effect on {results}, whose thresholds were found when it was written")
    return read_rows(results)


def explained(results: Results, target: Target) -> tuple[DataFrame, list[dict[str, Any]]]:
    """(rows, a summary of each pair of models) of why k* changes with scale; the rows are kept beside the runs.

    Raises ApetError where no two models can be compared.
    """
    on_loss = [known for known in results.targets if known.on_loss]
    rows, summaries = explain(results.store, results.runs, target, results.thresholds(on_loss))
    if not summaries:
        raise ApetError(f"nothing to compare in {results.store.root}: it takes predictions and full fine-tuning of two models of a family")
    table = frame(rows)
    with atomic_path(results.store.root / EXPLAINED_ROWS) as temporary:
        table.to_parquet(temporary)
    return table, summaries


def read_rows(path: Path) -> DataFrame:
    """Rows as 'table --rows' wrote them."""
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise MissingInput(f"no file {path}") from None
    except Exception as error:  # pyarrow's own
        raise UsageError(f"{path} holds no rows: {' '.join(str(error).split())}") from error
