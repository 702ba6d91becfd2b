"""The pages that are made from the code are up to date, and the documentation builds without a warning."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from docs.generate import PAGES, REFERENCE
from tests.docs.pages import ROOT


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_reference_is_what_the_code_says(name):
    assert (REFERENCE / f"{name}.md").read_text(encoding="utf-8") == PAGES[name](), "make docs writes the page anew"


def test_the_documentation_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    assert "<math" in (tmp_path / "site" / "theory" / "prediction.html").read_text(encoding="utf-8")  # formulas need no script
