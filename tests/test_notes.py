"""A row's note is for people. Programs may print a note, but they read columns instead."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PRINTED = {  # functions that show a note to people
    "analyses/results/study_rows.py:concluded",  # the sentence of a verdict
    "analyses/studies/walk.py:Walk.result",  # the reason of a failed run
    "analyses/thresholds/intrinsic_dimension.py:_summary",  # the definition of the target
    "analyses/thresholds/intrinsic_dimension.py:_answer",
    "analyses/thresholds/intrinsic_dimension.py:told",
    "figures/interval.py:_interval",  # the reason of an open interval
    "figures/report/by_target.py:_labels",  # the target's definition, in rows of older versions
    "figures/report/claim_list.py:claims",  # the sentences of a verdict
    "figures/report/claim_list.py:_case",
    "figures/report/run_table.py:training_runs",  # the reason of a failed run
    "figures/report/warning_list.py:_failed",
    "figures/report/page.py:_targets",
    "analyses/terminal/printing.py:print_plan",  # the note of a plan's line, which is not a row
}
ITS_OWN = {"analyses/store/rows.py", "analyses/store/statuses.py"}  # the files that define the column


def readers(path: Path) -> Iterator[str]:
    """Yield the functions of a file that read an attribute or a column named note."""

    def walk(node: ast.AST, name: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{name}.{child.name}".lstrip(".")
            called = isinstance(node, ast.Call) and child is node.func  # a method of this name
            attribute = isinstance(child, ast.Attribute) and child.attr in ("note", "notes") and isinstance(child.ctx, ast.Load)
            if attribute and not called:
                yield f"{path.relative_to(ROOT)}:{name}"
            # A dictionary's key or a keyword of a call writes a note; any other constant reads it.
            makes = isinstance(node, ast.Dict) and child in node.keys
            if isinstance(child, ast.Constant) and child.value == "note" and not makes:
                yield f"{path.relative_to(ROOT)}:{name}"
            yield from walk(child, inner)

    return walk(ast.parse(path.read_text()), "")


def test_no_program_reads_a_note_but_to_show_it() -> None:
    files = [ROOT / "cli.py", *(path for folder in ("analyses", "figures", "benchmarks") for path in (ROOT / folder).rglob("*.py"))]
    found = {reader for path in files if str(path.relative_to(ROOT)) not in ITS_OWN for reader in readers(path)}
    assert found == PRINTED
