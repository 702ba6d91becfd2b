"""A drawn study, shared by the tests: drawing is what takes time."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from figures import FIGURES, Drawn, draw_all
from tests.figures.synthetic import MODELS, findings, study, thresholds_of_metric

DRAWN = {name: MODELS[name] for name in ("mini-t5-240k", "mini-t5-6m")}


ABSENT = ("placements", "quadratics")  # figures whose rows no ordinary study holds


def rows_drawn() -> pd.DataFrame:
    """Return the rows of the drawn study."""
    return pd.concat([study(DRAWN), findings(DRAWN, ("sst2",)), thresholds_of_metric(DRAWN)])


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw_all(rows_drawn(), tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="session")
def pngs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a small picture for every figure of a study. The report accepts any pictures."""
    root = tmp_path_factory.mktemp("pngs")
    found = {name: root / f"{name}.png" for name in FIGURES if name not in ABSENT}
    for path in found.values():
        Image.new("RGB", (4, 3)).save(path)
    return found
