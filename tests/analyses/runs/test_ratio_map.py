"""Maps of the Hessian ratio: correct for a function with a known Hessian, resumed point by point, and written as rows of a slice."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from study_cases import spec_of

from analyses.runs import ratio_map as ratios
from analyses.runs.evaluation_point import Point
from analyses.runs.execute import run
from analyses.runs.run_inputs import Context
from analyses.runs.slice import slice_gradients
from analyses.runs.slice_directions import Frame
from analyses.store.run_store import Store
from landscape import Objective

PLANE = spec_of(kind="slice", k=20, points=5, dims=2, ratio_map=3)
SIZE = 6
ROTATION = torch.as_tensor(np.linalg.qr(np.random.default_rng(2).standard_normal((SIZE, SIZE)))[0])
HEIGHTS = torch.arange(1.0, SIZE + 1, dtype=torch.float64)


def waves(z: torch.Tensor, _: int) -> torch.Tensor:
    """-sum_i i cos y_i, y = ROTATION' z, whose Hessian is ROTATION diag(i cos y_i) ROTATION'."""
    return -(HEIGHTS * torch.cos(ROTATION.T @ z)).sum()


def place(loss=waves) -> Point:
    objective = Objective(loss, lambda out, _: (out, 1.0), [0], SIZE, torch.float64)
    z = torch.full((SIZE,), 0.3, dtype=torch.float64)
    return Point(objective, z, SimpleNamespace(num_processes=1), None, z, lambda _: objective)


def map_of(here: Point, folder) -> tuple[list, dict[str, np.ndarray]]:
    frame = Frame(torch.eye(SIZE, dtype=torch.float64)[:, :2], (2.0, 3.0))
    spec = replace(PLANE, ratio_map=5)
    return ratios.ratio_map(spec, here, frame, Context(folder, lambda *_: None), lambda name, value, **more: (name, value, more))


def test_every_points_ratio_is_that_of_the_known_hessian(tmp_path):
    rows, arrays = map_of(place(), tmp_path)
    assert len(rows) == 25
    for i, x in enumerate(np.linspace(-2, 2, 5)):
        for j, y in enumerate(np.linspace(-3, 3, 5)):
            at = ROTATION.T @ (torch.tensor([x, y] + [0.0] * (SIZE - 2), dtype=torch.float64) + 0.3)
            eigenvalues = (HEIGHTS * torch.cos(at)).numpy()
            truth = abs(min(eigenvalues.min(), 0.0)) / abs(eigenvalues.max())
            assert arrays["hessian_ratio"][i, j] == pytest.approx(truth, rel=1e-8, abs=1e-10)
            assert arrays["hessian_ratio.stderr"][i, j] < 1e-8
            name, value, more = rows[5 * i + j]
            assert (name, value, more["x"], more["y"]) == ("slice_hessian_ratio", arrays["hessian_ratio"][i, j], x, y)
    assert arrays["hessian_ratio"].min() == 0 < arrays["hessian_ratio"].max()


def test_where_there_is_no_loss_there_is_no_ratio(tmp_path):
    _, arrays = map_of(place(lambda z, b: waves(z, b) + torch.where(z[0] > 2, math.inf, 0.0)), tmp_path)
    assert np.isnan(arrays["hessian_ratio"]).tolist() == [[i == 4] * 5 for i in range(5)]


class Dies(RuntimeError):
    pass


@pytest.mark.long
def test_a_map_that_was_stopped_goes_on_after_the_last_whole_point(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ratios, "LANCZOS_STEPS", 5)
    whole, part, honest = Store(tmp_path / "whole"), Store(tmp_path / "part"), ratios._ratio
    name, made = run(PLANE, whole, folder), []

    def dies(*arguments):
        if len(made) == 4:
            raise Dies
        made.append(1)
        return honest(*arguments)

    monkeypatch.setattr(ratios, "_ratio", dies)
    with pytest.raises(Dies):
        run(PLANE, part, folder)
    made.clear()
    monkeypatch.setattr(ratios, "_ratio", lambda *arguments: (made.append(1), honest(*arguments))[1])
    run(PLANE, part, folder)
    assert len(made) == 9 - 4
    for file in ("rows.jsonl", "arrays.safetensors"):
        assert (part.folder(name) / file).read_bytes() == (whole.folder(name) / file).read_bytes()
    assert not list(part.folder(name).glob("checkpoint*"))
    assert sum(row.quantity == "slice_hessian_ratio" for row in part.rows(name)) == 9


def test_what_a_map_costs_is_stated():
    plain = slice_gradients(replace(PLANE, ratio_map=0), 10)
    assert slice_gradients(PLANE, 10) - plain == 10 * 9 * 60 + 30
