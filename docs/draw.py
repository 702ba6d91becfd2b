"""The pictures of the concept pages: `python docs/draw.py` draws them into docs/images/concepts, from real objects and committed rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import nn

from analyses.runs import run
from analyses.specs import SliceSpec, TrainSpec
from analyses.store import Store, frame
from analyses.thresholds import Run
from apet.subspaces import ParameterSpace, place
from figures import layout, style
from figures.venues import DEFAULT
from landscape import CrossEntropy, GaussNewton, ModuleOutputs, Objective, eigenpairs, to_dense

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images" / "concepts"
LADDER = ROOT / "studies" / "rows" / "predict-ladder.parquet"
EXAMPLE = {"task": "mini-nli", "model": "mini-t5-790k", "subspace": "coordinates"}


def flow() -> Figure:
    """Return boxes from a spec to its rows."""
    figure = layout.new_figure(DEFAULT.wide, 1.5)
    axes = _blank(figure.subplots())
    boxes = {
        "spec": (0, 1),
        "model and task": (2, 2),
        "subspace": (4, 2),
        "objective": (4, 0),
        "training": (6, 2),
        "operator": (6, 0),
        "rows": (8, 1),
    }
    box = {"boxstyle": "round,pad=0.5", "facecolor": "#e8f2f1", "edgecolor": style.INK, "linewidth": 0.6}
    patches = {name: axes.text(x, y, name, ha="center", va="center", bbox=box).get_bbox_patch() for name, (x, y) in boxes.items()}
    arrows = [("spec", "model and task"), ("model and task", "subspace"), ("subspace", "objective"), ("objective", "training"),
              ("objective", "operator"), ("training", "rows"), ("operator", "rows")]  # fmt: skip
    for start, end in arrows:
        arrow = {"arrowstyle": "->", "patchA": patches[start], "patchB": patches[end], "shrinkA": 3, "shrinkB": 3, "color": style.GREY}
        axes.annotate("", boxes[end], boxes[start], arrowprops=arrow)
    axes.set(xlim=(-0.8, 8.6), ylim=(-0.6, 2.6))
    return figure


def subspace() -> Figure:
    """Return tuned entries of a matrix beside a random projection."""
    figure = layout.new_figure(DEFAULT.wide, 1.7)
    entries, projection = figure.subplots(1, 2)
    _matrix(entries, _placed(nn.Linear(16, 8, bias=False), 12), "12 single entries")
    columns = np.random.default_rng(0).normal(size=(8 * 16, 12))
    _matrix(projection, (columns @ np.ones(12)).reshape(8, 16), "one displacement of a projection, d = 12")
    return figure


def objective() -> Figure:
    """Return a line through a pretrained model with its quadratic model."""
    spec = SliceSpec(model="mini-bloom-120k", task="mini-review", k=200, examples=32, points=41, reach=2.0)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        rows = frame(list(Run.of(store, run(spec, store)).rows))
    figure = layout.new_figure(DEFAULT.narrow, 2.2)
    axes = figure.subplots()
    loss = rows[(rows.quantity == "slice_loss") & (rows.split == "train")].sort_values("x")
    axes.plot(loss.x, loss.value, color=style.INK, label="training loss")
    axes.fill_between(loss.x, loss.value - loss.stderr, loss.value + loss.stderr, color=style.INK, alpha=0.15, linewidth=0)
    quadratic = rows[rows.quantity == "slice_quadratic"].sort_values("x")
    axes.plot(quadratic.x, quadratic.value, "--", color=style.PREDICTED, label="quadratic model")
    axes.set(xlabel="displacement along a random direction", ylabel="loss (nats)")
    axes.legend()
    return figure


def spec() -> Figure:
    """Return a spec, the files of its run and some of its rows, as text."""
    described = TrainSpec(model="mini-bloom-120k", task="mini-review", k=20, examples=32, steps=4)
    with tempfile.TemporaryDirectory() as folder:
        name = run(described, Store(Path(folder)))
        files = sorted(path.name for path in (Path(folder) / name).iterdir())
        rows = [row for row in Run.of(Store(Path(folder)), name).rows if row.quantity in ("loss", "accuracy", "initial_loss") and row.split]
    shown = [f"{row.quantity:<13}{row.split:<11}{row.value:.3f} ± {row.stderr:.3f}" for row in rows[:5]]
    panels = {"spec": [f"{key}: {value}" for key, value in described.changed.items()], f"run {name}": files, "rows": shown}
    figure = layout.new_figure(DEFAULT.wide, 1.0)
    for axes, (title, lines) in zip(figure.subplots(1, 3, width_ratios=(1.2, 1, 1.8)), panels.items(), strict=True):
        _blank(axes).text(0, 1, "\n".join(lines), va="top", family="DejaVu Sans Mono", fontsize=7)
        axes.set_title(title, loc="left")
    return figure


def operator() -> Figure:
    """Return a small Gauss-Newton matrix, its spectrum and what Lanczos finds of it."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    batch = torch.randn(64, 6).double(), torch.randint(3, (64,))
    outputs = ModuleOutputs(module)
    loss = Objective(outputs, CrossEntropy(lambda pair: pair[1]), [batch], outputs.size, torch.float64)
    matrix = GaussNewton(loss, torch.zeros(outputs.size, dtype=torch.float64))
    dense = to_dense(matrix).numpy()
    figure = layout.new_figure(DEFAULT.wide, 2.3)
    left, right = figure.subplots(1, 2)
    most = np.abs(dense).max()
    left.imshow(np.sign(dense) * np.sqrt(np.abs(dense) / most), cmap="RdBu_r", vmin=-1, vmax=1)
    left.set(title=f"matrix of {outputs.size} entries (root scale)", xticks=[], yticks=[])
    exact = np.sort(np.linalg.eigvalsh(dense))[::-1]
    top = eigenpairs(matrix, count=8, steps=20)
    right.semilogy(np.arange(1, 41), exact[:40], ".", color=style.GREY, label="exact")
    right.semilogy(
        np.arange(1, 9), top.eigenvalues, "o", fillstyle="none", color=style.PREDICTED, label=f"Lanczos, {top.products} products"
    )
    right.set(xlabel="rank", ylabel="eigenvalue")
    right.legend()
    return figure


def placement() -> Figure:
    """Return four placements of 64 entries in one matrix."""
    module = nn.Linear(32, 32, bias=False)
    scores = {"weight": np.abs(module.weight.detach().numpy())}
    figure = layout.new_figure(DEFAULT.wide, 1.9)
    for axes, (title, options) in zip(figure.subplots(1, 4), {
        "single entries, random": {}, "rows": {"unit": "row"}, "columns": {"unit": "column"},
        "largest magnitude": {"order": "score", "scores": scores},
    }.items(), strict=True):  # fmt: skip
        _matrix(axes, _placed(module, 64, **options), title)
    return figure


def targets() -> Figure:
    """Return losses of runs over k, three targets and their thresholds."""
    rows = _rows()
    figure = layout.new_figure(DEFAULT.narrow, 2.3)
    axes = figure.subplots()
    gaps = rows[rows.quantity == "gap"]
    first = gaps[gaps.target == gaps.target.max()].sort_values("x")
    axes.loglog(first.x, first.target * np.exp(-first.value), "o-", color=style.INK, label="APET runs")
    for _, star in rows[(rows.quantity == "k_star") & rows.value.notna()].iterrows():
        axes.axhline(star.target, color=style.GREY, linewidth=0.6, linestyle=":")
        axes.plot(star.value, star.target, "D", color=style.PREDICTED)
    axes.plot([], [], "D", color=style.PREDICTED, label="k* of a target")
    axes.set(
        xlabel="tuned parameters k", ylabel="training loss (nats)", yticks=[0.1, 0.2, 0.4, 0.6], yticklabels=["0.1", "0.2", "0.4", "0.6"]
    )
    axes.yaxis.set_minor_formatter(NullFormatter())
    style.log_counts(axes.xaxis, first.x.min() / 1.2, first.x.max() * 1.2)
    axes.legend()
    return figure


def k_star() -> Figure:
    """Return the gaps of runs, the line through them and its zero."""
    rows = _rows()
    stars = rows[(rows.quantity == "k_star") & rows.low.notna() & rows.high.notna()]
    star = stars.loc[(np.log(stars.high / stars.low)).idxmin()]
    same = rows[rows.target == star.target]
    gaps = same[same.quantity == "gap"].sort_values("x")
    slope = same[same.quantity == "slope"].iloc[0].value
    figure = layout.new_figure(DEFAULT.narrow, 2.3)
    axes = figure.subplots()
    axes.axvspan(star.low, star.high, color=style.PREDICTED, alpha=0.15, linewidth=0, label="95 % interval")
    axes.axhline(0, color=style.GREY, linewidth=0.6)
    axes.semilogx(gaps.x, gaps.value, "o", color=style.INK, label="runs")
    line = np.geomspace(gaps.x.min(), gaps.x.max(), 50)
    axes.semilogx(line, slope * np.log(line / star.value), color=style.PREDICTED, label="fitted line")
    axes.axvline(star.value, color=style.PREDICTED, linestyle="--", label=f"k* = {star.value:.0f}")
    axes.set(xlabel="tuned parameters k", ylabel="log(target loss / loss)", ylim=(-2, 3))
    style.log_counts(axes.xaxis, gaps.x.min() / 1.2, gaps.x.max() * 1.2)
    axes.legend(loc="upper left")
    return figure


def _rows() -> pd.DataFrame:
    rows = pd.read_parquet(LADDER)
    return rows[np.logical_and.reduce([rows[name] == value for name, value in EXAMPLE.items()])]


def _placed(module: nn.Module, k: int, **options: object) -> np.ndarray:
    """Return which entries of the module's only matrix are tuned, as 0 and 1."""
    chosen = place(ParameterSpace.of(module, "all"), k, seed=0, **options).index  # pyright: ignore[reportArgumentType]
    mask = np.zeros(module.weight.numel())  # pyright: ignore
    mask[chosen] = 1
    return mask.reshape(module.weight.shape)  # pyright: ignore


def _matrix(axes: Axes, values: np.ndarray, title: str) -> None:
    most = np.abs(values).max()
    axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most)
    axes.set(title=title, xticks=[], yticks=[])


def _blank(axes: Axes) -> Axes:
    axes.set_axis_off()
    return axes


PICTURES: dict[str, Callable[[], Figure]] = {
    "flow": flow, "subspace": subspace, "objective": objective, "spec": spec, "operator": operator, "placement": placement,
    "targets": targets, "k-star": k_star,
}  # fmt: skip

if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        with style.paper():
            draw().savefig(IMAGES / f"{name}.png", dpi=style.DPI)
