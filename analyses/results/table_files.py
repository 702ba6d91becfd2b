"""Tables as files: CSV, parquet, LaTeX (booktabs) and Markdown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from apet.errors import lookup
from apet.files import atomic_path


def write_table(lines: list[dict[str, Any]], path: Path) -> None:
    """Write the lines to `path` in the format of its suffix: .csv, .parquet, .tex (booktabs) or .md. Raises UsageError for any other."""
    import pandas as pd

    write = lookup(_WRITERS, path.suffix, "suffix of a table")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        write(pd.DataFrame(lines), temporary)


def _markdown(frame: Any, path: Path) -> None:
    cells = [
        list(frame.columns),
        ["---:" if _is_numeric(frame[name]) else "---" for name in frame.columns],
        *([_short(value).replace("|", "\\|") for value in row] for row in frame.itertuples(index=False)),
    ]
    path.write_text("".join(f"| {' | '.join(line)} |\n" for line in cells), encoding="utf-8")


def _latex(frame: Any, path: Path) -> None:
    shown = frame.map(_short).map(_escaped)
    columns = " & ".join(map(_escaped, frame.columns))
    rows = "".join(" & ".join(line) + " \\\\\n" for line in shown.itertuples(index=False))
    sides = "".join("r" if _is_numeric(frame[name]) else "l" for name in frame.columns)
    head = f"\\begin{{tabular}}{{{sides}}}\n\\toprule\n{columns} \\\\\n\\midrule\n"
    path.write_text(f"{head}{rows}\\bottomrule\n\\end{{tabular}}\n", encoding="utf-8")


def _is_numeric(column: Any) -> bool:
    """Return whether a column holds numbers, which stand on the right."""
    return all(isinstance(value, int | float) for value in column)


def _escaped(text: str) -> str:
    """Return the LaTeX source that prints `text`."""
    return "".join(LATEX.get(character, character) for character in text)


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if isinstance(value, float) else str(value)


LATEX = {character: f"\\{character}" for character in "_%&#${}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "*": "$^*$", "\n": " ", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "–": "--",
    "[": "{[}", "]": "{]}",  # a bracket after \\\\ would be its argument
}  # fmt: skip
_WRITERS: dict[str, Callable[[Any, Path], None]] = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
    ".tex": _latex,
    ".md": _markdown,
}
