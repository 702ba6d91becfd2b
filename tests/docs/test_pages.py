"""Every command and code block of README and docs runs and prints what the page shows; every link leads somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.docs.pages import ROOT, Reader, blocks_of, differs
from tests.docs.quoted_numbers import pages

PAGES = [ROOT / "CONTRIBUTING.md", *pages()]
WRITTEN = [page for page in PAGES if page.parent.name != "reference"]  # the others are made from the code
RUN = [page for page in WRITTEN if any("data" not in block.words for block in blocks_of(page.read_text()))]
LONG = [page for page in RUN if any("long" in block.words for block in blocks_of(page.read_text()))]


def check(page: Path, folder: Path, left_out: set[str]) -> None:
    """Run the blocks of a page that have none of the words `left_out`."""
    reader = Reader(folder)
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if not left_out & set(block.words):
            difference = differs(block.shown, reader.output(block))
            assert difference is None, f"{page.relative_to(ROOT)}: {block.code}\n{difference}"


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_short_blocks_print_what_the_page_shows(page, tmp_path):
    check(page, tmp_path, {"data", "long"})


@pytest.mark.long
@pytest.mark.parametrize("page", LONG, ids=lambda page: str(page.relative_to(ROOT)))
def test_all_blocks_print_what_the_page_shows(page, tmp_path):
    check(page, tmp_path, {"data"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_figures_exist(page):
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        for part in token.children or []:
            target = str(part.attrGet("href") or part.attrGet("src") or "").partition("#")[0]
            if target and "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


@pytest.mark.parametrize(("shown", "printed"), [
    ("k 12.3 of 100", "k 12.4 of 100"), ("a ... b", "a 1\n2 b"), ("1,000 entries", "1,010 entries"), ("x   1", "x 1"), ("", "anything"),
    ("a 0.7 ± 0.02", "a 0.74 ± 0.021"),
])  # fmt: skip
def test_outputs_that_agree(shown, printed):
    assert differs(shown, printed) is None


@pytest.mark.parametrize(
    ("shown", "printed"), [("k 12.3", "k 13"), ("loss", "lost"), ("1 line", "1 line\n2 lines"), ("mini-t5-2m", "mini-t5-6m")]
)
def test_outputs_that_differ(shown, printed):
    assert differs(shown, printed) is not None


def test_a_page_is_read_as_its_reader_would(tmp_path):
    page = (
        "```console\n$ echo one \\\n  two\none two\n$ cat << 'END'\n3\nEND\n3\n```\n\n```python\nx = 4\nprint(x)\n```\n\n```text\n4\n```\n"
    )
    blocks = blocks_of(page)
    reader = Reader(tmp_path)
    assert [block.shown.strip() for block in blocks] == ["one two", "3", "4"]
    assert [reader.output(block).strip() for block in blocks] == ["one two", "3", "4"]
    assert [page.splitlines()[block.lines[0]] for block in blocks] == ["one two", "3", "4"]
    with pytest.raises(AssertionError, match="exit code 1"):
        reader.output(blocks_of("```console\n$ false\n```\n")[0])
