"""A linter for the project's English: `python tests/prose.py [PATH ...]` prints each sentence that breaks a rule of prose.yaml.

It reads docstrings, comments, help texts, error messages, captions and Markdown pages. Code in backticks and code blocks is left out.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
SOURCES = ("apet", "landscape", "analyses", "figures", "cli.py", "README.md", "CONTRIBUTING.md", "docs")
LONGEST = 35  # words in a sentence
CODE = "CODE"  # stands for code, and for a value that is filled in
MADE_FROM_CODE = "reference"  # a folder of pages whose texts are checked where they are written


HABITS = yaml.safe_load((Path(__file__).parent / "prose.yaml").read_text())
RULES = [(re.compile(pattern), advice) for pattern, advice in HABITS["rules"]]
NOT_VERBS = HABITS["not_verbs"].split()


@dataclass(frozen=True)
class Text:
    """One text, where it stands, and its sort: docstring, function, comment, help, error, caption or page."""

    path: Path
    line: int
    sort: str
    text: str


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text, its list items, definitions (`name: meaning`, or indented lines) and table cells."""
    text = re.sub(r"`[^`]*`", CODE, text)
    for block in re.split(r"\n\s*\n|\n\s*(?:[-*|]|\d+\.)\s|\s\|\s|\n(?=  +\S|[\w`, *.()]+: |\S.*\S {2,}\S)", text):
        block = " ".join(block.split())
        yield from filter(None, re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!al\.)(?<!vs\.)\s+(?=[A-Z`(\[\"']|[a-z]\b)", block))


def faults(text: Text) -> Iterator[str]:
    """Yield what is wrong with a text, one line per fault."""
    for number, sentence in enumerate(sentences(text.text)):
        for pattern, advice in RULES:
            if match := pattern.search(sentence):
                yield f"'{match.group().strip()}': {advice}: {sentence}"
        if (words := len(re.findall(r"[A-Za-z0-9']+", sentence))) > LONGEST and text.sort != "comment":
            yield f"{words} words: {sentence}"
        if number == 0 and text.sort == "function" and sentence.split()[0] in NOT_VERBS:
            yield f"begin with a verb: {sentence}"


def texts_of(path: Path) -> Iterator[Text]:
    """Yield the texts of a Python or Markdown file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from _page(path, source)
    elif path.suffix == ".py":
        yield from _comments(path, source)
        tree = ast.parse(source)
        for node in ast.walk(tree):
            yield from _docstring(path, node)
            yield from _messages(path, node)
        if path.name == "words.py":
            for node in ast.walk(tree):
                if isinstance(node, ast.Dict | ast.Return):
                    yield from (Text(path, each.lineno, "caption", _string(each)) for each in ast.walk(node) if _is_string(each))


def _page(path: Path, source: str) -> Iterator[Text]:
    blank = re.sub(r"```.*?```|~~~.*?~~~|<!--.*?-->", lambda found: "\n" * found.group().count("\n"), source, flags=re.DOTALL)
    blank = re.sub(r"^(    .*|---|\|[-| :]+\|)$", "", blank, flags=re.MULTILINE)
    blank = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", CODE, blank, flags=re.DOTALL)
    blank = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", blank)
    line = 1
    for block in re.split(r"(\n\s*\n)", blank):
        if block.strip():
            yield Text(path, line, "page", re.sub(r"^#+ ", "", block))
        line += block.count("\n")


def _comments(path: Path, source: str) -> Iterator[Text]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(type:|noqa|fmt:|pyright)", token.string):
            yield Text(path, token.start[0], "comment", token.string.lstrip("# "))


def _docstring(path: Path, node: ast.AST) -> Iterator[Text]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
        called = isinstance(node, ast.FunctionDef) and not any("property" in ast.unparse(each) for each in node.decorator_list)
        command = called and any("command(" in ast.unparse(each) for each in node.decorator_list)
        yield Text(path, node.body[0].lineno, "function" if called and not command else "docstring", text)


def _messages(path: Path, node: ast.AST) -> Iterator[Text]:
    """Yield the help texts of options and the messages of errors."""
    if isinstance(node, ast.Call):
        named = [each.value for each in node.keywords if each.arg == "help"]
        if isinstance(node.func, ast.Name) and node.func.id == "option":
            named += node.args[2:3]
        yield from (Text(path, each.lineno, "help", _string(each)) for each in named if _is_string(each))
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        yield from (Text(path, each.lineno, "error", _string(each)) for each in node.exc.args if _is_string(each))


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _string(node: ast.AST) -> str:
    """Return a literal's text, with CODE for each value that is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_string(each) if isinstance(each, ast.Constant) else CODE for each in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else ""


def files(paths: list[Path]) -> Iterator[Path]:
    """Yield the Python and Markdown files in `paths`, in order."""
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for each in inside:
            if each.suffix in (".py", ".md") and not {"weights", MADE_FROM_CODE} & set(each.parts):
                yield each


def found(paths: list[Path]) -> list[str]:
    """Return one line per fault: file, line, sort and advice."""
    return [f"{each.path}:{each.line}: {each.sort}: {fault}" for path in files(paths) for each in texts_of(path) for fault in faults(each)]


if __name__ == "__main__":
    lines = found([Path(each) for each in sys.argv[1:]] or [ROOT / each for each in SOURCES])
    print(*lines, sep="\n")
    print(f"{len(lines)} faults")
    sys.exit(bool(lines))
