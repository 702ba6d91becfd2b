"""Runs the code blocks of a Markdown page as its reader would, and compares their output with the page.

A `console` block has commands after `$` and their output below them. A `python` block is followed by a `text` block if it prints.
In the expected output `...` stands for anything. Numbers may differ by 2 %, or by three standard errors if the page states one
(`x ± stderr`). The word `long` after the language marks a block that takes more than some seconds, `data` a block that needs files or a
machine that the project does not bring.

`python tests/docs/pages.py PAGE ...` runs all blocks of pages and writes their output into them.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
LINKED = ("cli.py", "studies", "benchmarks")
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?|[-+]?\.\d+(?:e[-+]?\d+)?"
TOLERANCE, STDERR_TOLERANCE = 0.02, 0.3
PLUS_MINUS = " ± "


@dataclass(frozen=True)
class Block:
    """One piece of code of a page, the output that the page shows, and the lines (0-based, end excluded) that hold this output."""

    language: str
    words: tuple[str, ...]  # after the language: long, data
    code: str
    shown: str
    lines: tuple[int, int]


def blocks_of(source: str) -> list[Block]:
    """Return the blocks of a page that can be run, in their order: one for each command, one for each Python block."""
    fences = [token for token in MarkdownIt().parse(source) if token.type == "fence"]
    blocks = []
    for token, after in zip_longest(fences, fences[1:]):
        language, *words = token.info.split() or [""]
        start, end = token.map
        if language == "console":
            blocks += _commands(token.content, tuple(words), start + 1)
        elif language == "python":
            prints = after is not None and after.info.startswith("text") and not _between(source, end, after.map[0]).strip()
            lines = (after.map[0] + 1, after.map[1] - 1) if prints else (end, end)
            blocks.append(Block(language, tuple(words), token.content, after.content if prints else "", lines))
    return blocks


def _between(source: str, start: int, end: int) -> str:
    return "\n".join(source.splitlines()[start:end])


def _commands(content: str, words: tuple[str, ...], first: int) -> Iterator[Block]:
    """Yield each command of a console block. A command goes to the line that does not end in a backslash or inside a here-document."""
    lines = content.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    for start, stop in zip_longest(starts, starts[1:], fillvalue=len(lines)):
        end = start + 1
        if marker := re.search(r"<< ?'?(\w+)'?", lines[start]):
            end = lines.index(marker[1], start) + 1
        while lines[end - 1].endswith("\\"):
            end += 1
        code = "\n".join(lines[start:end]).removeprefix("$ ")
        yield Block("console", words, code, "\n".join(lines[end:stop]), (first + end, first + stop))


@dataclass
class Reader:
    """Runs blocks in `folder`, as a reader who has just opened a terminal there."""

    folder: Path
    names: dict = field(default_factory=lambda: {"__name__": "__page__"})

    def __post_init__(self) -> None:
        for name in LINKED:
            (self.folder / name).symlink_to(ROOT / name)

    def output(self, block: Block) -> str:
        """Run a block and return what it prints. Raises AssertionError if a command fails."""
        return self._console(block.code) if block.language == "console" else self._python(block.code)

    def _console(self, command: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, f"{command}\nexit code {done.returncode}\n{done.stdout}"
        return done.stdout.replace(f"{self.folder.resolve()}/", "")

    def _python(self, code: str) -> str:
        printed = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
            exec(compile(code, "page", "exec"), self.names)
        return printed.getvalue()


def differs(shown: str, printed: str) -> str | None:
    """Return the first difference between the output that a page shows and the output of its code, or None."""
    if not shown.strip():
        return None  # the page shows no output
    shown, printed = _tidy(shown), _tidy(printed)
    parts = _parts(shown)
    pattern = "".join(f"(?P<n{i}>{NUMBER})" if re.fullmatch(NUMBER, part) else _literal(part) for i, part in enumerate(parts))
    match = re.fullmatch(pattern, printed, re.DOTALL)
    if match is None:
        return f"the page shows\n{shown}\nand the code prints\n{printed}"
    for name, text in match.groupdict().items():
        at = int(name[1:])
        if abs(_value(parts[at]) - _value(text)) > _tolerance(parts, at):
            return f"the page shows {parts[at]} and the code prints {text} in\n{printed}"
    return None


def _tolerance(parts: list[str], at: int) -> float:
    """Return how far the number parts[at] may be from its printed value: three of its standard errors if it has one."""
    before, after = "".join(parts[at - 1 : at]), "".join(parts[at + 1 : at + 2])
    if after == PLUS_MINUS:
        return max(3 * _value(parts[at + 2]), TOLERANCE * abs(_value(parts[at])))
    return (STDERR_TOLERANCE if before == PLUS_MINUS else TOLERANCE) * abs(_value(parts[at]))


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _parts(shown: str) -> list[str]:
    return [part for part in re.split(rf"(\.\.\.|(?<![\w.])(?:{NUMBER})(?!\w))", shown) if part]


def _literal(part: str) -> str:
    return ".*?" if part == "..." else re.sub(r"(?:\\? )+", " +", re.escape(part))  # columns are as wide as their widest number


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def rewritten(page: Path) -> str:
    """Run all blocks of a page, except `data`, and return the page with their output in place of what it shows."""
    source = page.read_text(encoding="utf-8")
    lines = source.splitlines()
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(Path(folder))
        done = [(block, reader.output(block)) for block in blocks_of(source) if "data" not in block.words]
    for block, printed in reversed(done):
        if "..." not in block.shown and (block.language == "console" or block.shown):
            lines[slice(*block.lines)] = _tidy(printed).splitlines()
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(rewritten(Path(name)), encoding="utf-8")
