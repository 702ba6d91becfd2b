"""A drawn study, shared by the tests: drawing is what takes time."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from figures import FIGURES, Drawn, draw_all
from tests.figures.synthetic import MODELS, study

DRAWN = {name: MODELS[name] for name in ("mini-t5-240k", "mini-t5-6m")}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw_all(study(DRAWN), tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="session")
def pngs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a small picture for every figure of a study. The report accepts any pictures."""
    root = tmp_path_factory.mktemp("pngs")
    found = {name: root / f"{name}.png" for name in FIGURES if name not in ("placements", "quadratics")}
    for path in found.values():
        Image.new("RGB", (4, 3)).save(path)
    return found
