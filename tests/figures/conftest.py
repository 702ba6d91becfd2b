"""A drawn study, shared by the tests: drawing is what takes time."""

from __future__ import annotations

from pathlib import Path

import pytest

from figures import Drawn, draw_all
from tests.figures.synthetic import MODELS, study

DRAWN = {name: MODELS[name] for name in ("mini-t5-240k", "mini-t5-6m")}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw_all(study(DRAWN), tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="session")
def pngs(drawn: Drawn) -> dict[str, Path]:
    return {name: paths[1] for name, paths in drawn.written.items()}
