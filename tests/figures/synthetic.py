"""Rows of a study that never ran: four models, APET at four k x three position seeds, full fine-tuning, LoRA, spectra.

The numbers follow simple curves with keyed noise, so a figure of them looks like one of a real study.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

MODELS = {"mini-t5-240k": 241_248, "mini-t5-790k": 790_096, "mini-t5-2m": 2_100_224, "mini-t5-6m": 5_739_776}
ONE = {"mini-t5-2m": MODELS["mini-t5-2m"]}
TWO = {name: MODELS[name] for name in ("mini-t5-240k", "mini-t5-6m")}
KS = (4, 16, 64, 256)
K_STAR = {"mini-t5-240k": 96.0, "mini-t5-790k": 61.0, "mini-t5-2m": 44.0, "mini-t5-6m": 21.0}
NOTE = "train loss equals 0.4 of the initial loss; 95 % bootstrap interval over runs"
TARGET = 0.277
Row = dict[str, Any]
BLANK: Row = {
    "kind": "", "protocol": "64 examples", "split": None, "method": "apet", "subspace": "coordinates", "placement": "random", "k": 0,
    "position_seed": None,
    "train_seed": None, "target": math.nan, "x": math.nan, "y": math.nan, "stderr": math.nan, "low": math.nan, "high": math.nan,
    "note": "", "run_id": "", "matrix": "", "directions": "", "at_run": "", "series": "", "group": "", "status": "", "other_model": "",
}  # fmt: skip


def study(models: dict[str, int] | None = None, *, task: str = "sst2", censored: tuple[str, ...] = ()) -> pd.DataFrame:
    """Tidy rows of a whole study; `censored` names models whose measured k* lies above the largest k."""
    rows: list[Row] = []
    for model, parameters in (models or MODELS).items():
        base = {**BLANK, "model": model, "parameters": parameters, "task": task}
        rows += _training(base)
        rows += _thresholds(base, model in censored)
        rows += _spectra(base)
        rows += _slices(base)
    return pd.DataFrame(rows)


def change(rows: pd.DataFrame, model: str, quantity: str, **values: object) -> pd.DataFrame:
    """Return a copy of `rows` with some columns of one model's quantity replaced."""
    rows = rows.copy()
    chosen = (rows["model"] == model) & (rows["quantity"] == quantity)
    assert sum(chosen) > 0
    for column, value in values.items():
        rows.loc[chosen, column] = value
    return rows


def _training(base: Row) -> list[Row]:
    runs = [("apet", k, seed) for k in KS for seed in range(3)]
    runs += [("full", base["parameters"], seed) for seed in range(3)] + [("lora", 2048, seed) for seed in range(3)]
    return [row for method, k, seed in runs for row in _run(base, method, k, seed)]


def _run(base: Row, method: str, k: int, seed: int) -> list[Row]:
    k_star = K_STAR.get(base["model"], 15.0)
    noise = np.random.default_rng([base["parameters"], k, seed, len(method)]).normal(size=2)
    progress = 1.0 / (1.0 + (k_star / (1.5 * k)) ** 0.9)
    loss = 0.693 * (1 - progress) * math.exp(0.08 * noise[0])
    accuracy = min(0.97, 0.5 + 0.38 * progress * (1 + 0.1 * math.log10(base["parameters"] / 2e5)) + 0.012 * noise[1])
    run = {
        **base, "kind": "train", "method": method, "k": k, "position_seed": seed if method == "apet" else None, "train_seed": seed,
        "run_id": f"{base['model']}-{base['task']}-{method}-{k}-{seed}",
    }  # fmt: skip
    if method != "apet":
        run |= {"subspace": None, "placement": None}
    validation, train = {"split": "validation"}, {"split": "train"}
    return [
        {**run, **validation, "quantity": "accuracy", "value": accuracy, "stderr": math.sqrt(accuracy * 0.1 / 872)},
        {**run, **validation, "quantity": "chance", "value": 0.509},
        {**run, **validation, "quantity": "initial_accuracy", "value": 0.497, "stderr": 0.017},
        {**run, **validation, "quantity": "loss", "value": loss + 0.05, "stderr": 0.011},
        {**run, **validation, "quantity": "initial_loss", "value": 0.70, "stderr": 0.004},
        {**run, **train, "quantity": "loss", "value": loss, "stderr": 0.014},
        {**run, **train, "quantity": "initial_loss", "value": 0.693, "stderr": 0.004},
        {**run, "quantity": "plateau", "value": 0.0 if (k, seed) == (256, 2) else 1.0},
        {**run, "quantity": "residual_gradient", "value": 3e-4 * (1 + seed)},
        {**run, "quantity": "without_embeddings", "value": 0.6 * base["parameters"]},
        {**run, "quantity": "steps", "value": 300},
        {**run, "quantity": "example_gradients", "value": 300 * 256},
    ]


def _thresholds(base: Row, censored: bool) -> list[Row]:
    k_star = K_STAR.get(base["model"], 15.0)
    k_pred = k_star * {241_248: 0.8, 790_096: 1.25, 2_100_224: 0.42}.get(base["parameters"], 1.1)
    common = {
        **base,
        "kind": "threshold",
        "k": None,
        "target": TARGET,
        "note": NOTE,
        "run_id": f"{base['model']}-{base['task']}-threshold",
    }
    measured = {**common, "quantity": "k_star", "value": k_star, "low": k_star * 0.85, "high": k_star * 1.2}
    if censored:
        measured |= {"value": math.nan, "low": 256.0, "high": math.nan, "status": "above"}
    ks = np.geomspace(1, 1000, 30)
    noise = np.random.default_rng(base["parameters"]).normal(size=12)
    tried = sorted([*KS, *(k_star * np.geomspace(0.8, 1.25, 7)).round(), 2 * k_star // 1])
    gaps = [
        (k, 0.41 * math.log(k / k_star) + 0.06 * e, "used" if abs(math.log(k / k_star)) < 1.3 else "far")
        for k, e in zip(tried, noise, strict=True)
    ]
    gaps[8] = (gaps[8][0], -1.5, "failed training")
    if censored:
        gaps = [(k, -0.4 + 0.02 * e, "used") for (k, _, _), e in zip(gaps, noise, strict=True)]
    return [
        *(
            {**common, "quantity": "gap", "x": k, "value": gap, "status": state, "position_seed": i}
            for i, (k, gap, state) in enumerate(gaps)
        ),
        measured,
        {**common, "quantity": "target_share", "value": 0.15},
        {**common, "quantity": "k_pred", "value": k_pred, "low": k_pred * 0.9, "high": k_pred * 1.12},
        *([] if censored else [{**common, "quantity": "slope", "value": 0.41, "stderr": 0.03, "series": "line"}]),
        {**common, "quantity": "target_loss", "value": TARGET},
        *({**common, "quantity": "predicted_loss", "x": k, "value": 0.693 / (1 + 1.5 * k / k_pred)} for k in ks),
        *_path(common, k_pred),
        *_attribution(common),
    ]


def thresholds_of_metric(models: dict[str, int] | None = None, *, task: str = "sst2", censored: tuple[str, ...] = ()) -> pd.DataFrame:
    """The high and the low threshold of each model; `censored` names models whose high threshold is not reached."""
    rows: list[Row] = []
    for model, size in (models or MODELS).items():
        k_star = K_STAR.get(model, 15.0)
        base = {**BLANK, "model": model, "parameters": size, "task": task, "kind": "threshold", "k": None, "target": 0.8}
        for quantity, target, value in (("k_high", "below-full:0.02", 2.2 * k_star), ("k_low", "above-chance:0.1", 0.3 * k_star)):
            ends = {"value": value, "low": 0.7 * value, "high": 1.5 * value}
            if quantity == "k_high" and model in censored:
                ends = {"value": math.nan, "low": 256.0, "status": "above"}
            rows.append({**base, "quantity": quantity, "group": target, "run_id": f"{model}-{task}-{target}", **ends})
    return pd.DataFrame(rows)


def findings(models: dict[str, int] | None = None, tasks: tuple[str, ...] = ("sst2", "rte")) -> pd.DataFrame:
    """Rows as the findings write them: spreads, gaps of methods, slopes over scale, and claims with a verdict."""
    models = models or MODELS
    blank = {**BLANK, "protocol": "", "method": "", "subspace": "", "placement": "", "k": None, "kind": "finding"}
    rows: list[Row] = []
    for model, size in models.items():
        for task in tasks:
            base = {**blank, "model": model, "parameters": size, "task": task}
            spreads = [("position_sd", 64, "", 2.0 * size**-0.4), ("position_sd", 2048, "lora", 1.2 * size**-0.35 if size > 3e5 else 0.0)]
            spreads += [("train_sd", 64, "", 0.006), ("method_sd", None, "", 0.7 * size**-0.25)]
            for quantity, k, series, sd in spreads:
                rows.append(
                    {**base, "quantity": quantity, "k": k, "series": series, "value": sd, "low": 0.5 * sd, "high": 2.1 * sd, "x": 5.0}
                )
            rows.append({**rows[-2], "quantity": "train_sd", "series": "lora", "k": 2048, "low": 0.0})
            for method, gap in (("lora", 0.02), ("adapter", -0.01), ("peft:ia3", 0.004)):
                value = gap * (size / 2e5) ** -0.3
                rows.append({**base, "quantity": "method_gap", "method": method, "k": 2048, "value": value, "stderr": 0.003,
                             "low": value - 0.008, "high": value + 0.008})  # fmt: skip
    names = sorted({model.rpartition("-")[0] for model in models})
    for name in names:
        for task in tasks:
            base = {**blank, "model": name, "parameters": 0, "task": task}
            for series, slope in (("k_high", -0.45), ("k_low", -0.4), ("k_high_share", -1.45), ("k_low_share", -1.4)):
                for quantity in ("scale_slope", "scale_slope_without_embeddings"):
                    rows.append({**base, "quantity": quantity, "series": series, "value": slope, "low": slope - 0.2, "high": slope + 0.2})
    cases = [("F1", "entries", "supported", 0.3), ("F1", "rows", "undecided", 0.05), ("F2", "below-full:0.02, entries", "supported", -0.45),
             ("F2", "below-full:0.05, a case whose name takes more than one line, because it names much", "not supported", 0.2),
             ("F3", "above-chance:0.1", "undecided", math.nan), ("methods", "LoRA", "supported", 0.02),
             ("prediction", "k_gm", "supported", 0.1)]  # fmt: skip
    for key, case, status, value in cases:
        for task in tasks:
            base = {**blank, "model": names[0], "parameters": 0, "task": task, "quantity": "claim", "series": key}
            rows.append({**base, "group": f"{names[0]}, {task}, {case}", "status": status, "value": value, "low": value - 0.15,
                         "high": math.inf if status == "undecided" else value + 0.15, "p": 0.03, "note": "A sentence."})  # fmt: skip
    return pd.DataFrame(rows)


def _path(common: Row, k: float) -> list[Row]:
    """Return the Moreau path's thresholds and curves around a predicted k."""
    factors = {"m0": 1.2, "gm": 1.0, "m1": 1 / 1.2}
    curves = [
        ("path_envelope", name, 0.693 / (1 + 2 * x), factor * k * x) for name, factor in factors.items() for x in np.geomspace(0.02, 8, 20)
    ]
    return [
        *({**common, "quantity": f"k_{name}", "value": factor * k} for name, factor in factors.items() if name != "gm"),
        {**common, "quantity": "k_gm", "value": k, "low": k * 0.9, "high": k * 1.12},
        {**common, "quantity": "k_gordon", "value": 0.8 * k, "stderr": 1.0}, {**common, "quantity": "k_larsen", "value": 3 * k},
        *({**common, "quantity": name, "series": series, "value": value, "x": x} for name, series, value, x in curves),
    ]  # fmt: skip


def _attribution(common: Row) -> list[Row]:
    """Return the change from the next smaller model, if one exists."""
    smaller = [name for name, size in MODELS.items() if size < common["parameters"]]
    if not smaller or common["model"] not in MODELS:
        return []
    pair = {**common, "kind": "", "run_id": f"{smaller[-1]}-{common['model']}", "x": float(MODELS[smaller[-1]])}
    pair |= {"other_model": smaller[-1]}
    parts = [("total", 0.3), ("spectrum", 0.25), ("alignment", 0.15), ("gap", -0.1), ("live", 0.0)]
    rows = [(f"explained_{name}", by, "", value * scale) for name, value in parts for by, scale in (("rank", 1.0), ("eigenvalue", 0.6))]
    rows += [("measured_change", "", "", 0.4), ("explain_verdict", "", "explained", 1.0)]
    return [
        {**pair, "quantity": name, "series": series, "status": status, "value": value, "low": value - 0.2, "high": value + 0.2}
        for name, series, status, value in rows
    ]


def claims() -> pd.DataFrame:
    """Return rows of findings: three verdicts on F1 and one on F3, and what would decide the open one."""
    base = {**BLANK, "kind": "finding", "protocol": None, "method": None, "subspace": None, "placement": None, "k": None, "parameters": 0}
    cases = [
        ("F1", "mini-t5", "sst2", -0.3, -0.5, -0.1, 0.004, "supported"),
        ("F1", "all families", "all tasks", -0.2, -0.35, -0.05, 0.02, "supported"),
        ("F1", "mini-bert", "sst2", 0.01, -0.4, 0.45, 0.9, "undecided"),
        ("F3", "mini-t5-6m", "all tasks", 4.2, 3.1, 6.0, 1e-5, "not supported"),
    ]
    rows = []
    for key, model, task, value, low, high, p, status in cases:
        case = f"{model}, {task}, spread over positions"
        numbers = {"value": value, "low": low, "high": high, "p": p}
        words = {"group": case, "status": status, "note": f"{case}: it moves. The verdict is {status}."}
        rows.append({**base, "model": model, "task": task, "quantity": "claim", "series": key, **numbers, **words})
    needs = {**rows[2], "quantity": "claim_needs", "value": 8.0, "status": "", "p": math.nan, "note": "About 8 times as many placements."}
    rows[2]["note"] += f" {needs['note']}"
    return pd.DataFrame([*rows, needs])


def quadratics() -> pd.DataFrame:
    """Return rows like the rows that benchmarks/prediction.py writes."""
    rows: list[Row] = []
    places = [("Gaussian", math.nan), ("coordinates", 0.0), ("coordinates", 1.0)]
    places += [("coordinates, turned", turn) for turn in (0.0, 0.03, 0.3, 1.0)]
    for number, (subspace, turn, k) in enumerate((subspace, turn, k) for subspace, turn in places for k in (10.0, 40.0, 160.0)):
        base = {**BLANK, "model": "quadratic of 400", "parameters": 400, "task": "quadratic", "subspace": subspace, "x": turn}
        base |= {"run_id": f"quadratic-{number}", "target": 0.2, "note": "i^-1; a^2 ~ l"}
        predicted = {"T3": k * (1.02 + (subspace != "Gaussian" and turn < 1)), "T5": 1.04 * k}
        rows.append({**base, "quantity": "quadratic_k_star", "value": k})
        rows += [{**base, "quantity": "quadratic_k", "series": method, "value": value} for method, value in predicted.items()]
    return pd.DataFrame(rows)


def placements() -> pd.DataFrame:
    """Position seeds at one k, trained and predicted, on three models, and their spreads."""
    rows: list[Row] = []
    for model, size in list(MODELS.items())[:3]:
        base = {**BLANK, "model": model, "parameters": size, "task": "mini-nli", "method": "apet", "subspace": "coordinates", "k": 40}
        base |= {"placement": "random", "split": "train"}
        spread = size**-0.3
        for seed in range(6):
            predicted = 0.6 + spread * math.sin(seed)
            losses = {"predicted": predicted, "measured": predicted + 0.05}
            rows += [{**base, "position_seed": seed, "quantity": "placement_loss", "value": v, "series": s} for s, v in losses.items()]
        rows += [{**base, "quantity": "placement_spread", "value": spread, "stderr": spread / 4, "series": series, "x": 6.0}
                 for series in ("measured", "predicted")]  # fmt: skip
    return pd.DataFrame(rows)


def _spectra(base: Row) -> list[Row]:
    common = {**base, "kind": "spectrum", "k": 4096, "matrix": "ggn", "run_id": f"{base['model']}-{base['task']}-ggn"}
    size = base["parameters"] ** 0.25
    eigenvalues = [(rank, 3.0 * size * rank**-1.3) for rank in range(1, 21)]
    grid = np.concatenate([-np.geomspace(0.3, 1e-4, 30), [0.0], np.geomspace(1e-4, 4 * size, 60)])
    density = [(x, (0.02 if x < 0 else 1.0) / (1e-5 * size**2 + abs(x)) * math.exp(-abs(x) / size)) for x in grid]
    kappas = np.geomspace(1e-4, 1e2, 25)
    n_eff = [(kappa, sum(value / (value + kappa) for _, value in eigenvalues)) for kappa in kappas]
    curves = [("eigenvalue", x, y, 0.02 * y) for x, y in eigenvalues]
    curves += [("density", x, y, 0.1 * y) for x, y in density] + [("n_eff", x, y, 0.05 * y) for x, y in n_eff]
    curves += [("top_alignment", rank, 1 - 0.7**rank, math.nan) for rank in range(1, 11)]
    scalars = [("trace", 41.0, 1.1), ("negative_mass", 0.012, 0.002), ("symmetry_defect", 2.1e-7, math.nan)]
    scalars += [("determinism_defect", 0.0, math.nan)]
    scalars += [("effective_rank", 3 + size / 10, 0.3), ("decay_exponent", 1.3, 0.2)]
    blocks = [("layer", group) for group in ("outside", "encoder 0", "encoder 1", "decoder 0")]
    blocks += [("kind", group) for group in ("attention", "norms")]
    parts = [(name, place, 100.0 if name == "block_size" else 5.0 * size ** (place - 3), *block)
             for place, block in enumerate(blocks) for name in ("block_size", "block_trace")]  # fmt: skip
    return [
        *(
            {**common, "quantity": name, "x": x, "value": value, "series": series, "group": group}
            for name, x, value, series, group in parts
        ),
        *({**common, "quantity": name, "x": x, "value": value, "stderr": error} for name, x, value, error in curves),
        *({**common, "quantity": name, "value": value, "stderr": error} for name, value, error in scalars),
    ]


def _slices(base: Row) -> list[Row]:
    """Lines in two random directions, and a plane through a run's end with its trajectory."""
    size = base["parameters"] ** 0.25
    norm = 2.0 * size
    train, validation = {"split": "train", "stderr": 0.02}, {"split": "validation", "stderr": 0.03}
    rows: list[Row] = []
    for seed in range(2):
        name = f"{base['model']}-{base['task']}-line-{seed}"
        common = {**base, "kind": "slice", "k": 256, "train_seed": seed, "directions": "random", "run_id": name}
        rows.append({**common, "quantity": "theta_norm", "value": norm})
        for x in np.linspace(-norm, norm, 21):
            height = 0.69 + (0.5 + 0.2 * seed) * math.log1p((x / size) ** 2)
            rows.append({**common, **train, "quantity": "slice_loss", "x": x, "value": height})
            rows.append({**common, **validation, "quantity": "slice_loss", "x": x, "value": height + 0.04})
            rows.append({**common, "split": "train", "quantity": "slice_quadratic", "x": x, "value": 0.69 + (x / size) ** 2})
    name = f"{base['model']}-{base['task']}-plane"
    common = {**base, "kind": "slice", "k": 256, "directions": "trajectory", "at_run": "0123456789abcdef", "run_id": name}
    rows.append({**common, "quantity": "theta_norm", "value": norm})
    rows += [{**common, "quantity": "explained_variance", "x": rank, "value": share} for rank, share in ((1, 0.71), (2, 0.18))]
    for x in np.linspace(-norm, norm, 11):
        for y in np.linspace(-norm / 2, norm / 2, 11):
            height = 0.05 + math.log1p((x / size) ** 2 + 3 * (y / size) ** 2)
            value = math.nan if x == -norm and y == norm / 2 else height
            rows.append({**common, **train, "quantity": "slice_loss", "x": x, "y": y, "value": value})
    rows += [
        {**common, "split": "train", "quantity": "slice_hessian_ratio", "x": x, "y": y, "stderr": 1e-4,
         "value": math.nan if x < 0 < y else abs(x * y) / norm}
        for x in np.linspace(-norm, norm, 5) for y in np.linspace(-norm / 2, norm / 2, 5)
    ]  # fmt: skip
    looks = [(norm * 0.8 * 0.6**i, norm * 0.2 * math.sin(i), 20 * i) for i in range(8)]
    rows += [{**common, "quantity": "slice_place", "x": x, "y": y, "value": step} for x, y, step in looks]
    rows += [
        {**common, "split": "train", "quantity": "slice_place_loss", "x": x, "y": y, "value": 2.0 - 0.01 * step} for x, y, step in looks
    ]
    rows.append({**common, "split": "train", "quantity": "off_plane", "value": -0.074, "stderr": 0.02})
    return rows
