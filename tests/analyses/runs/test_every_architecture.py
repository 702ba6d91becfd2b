"""Every architecture with every method: train, resume and export; and its curvature, slices and predictions.

Three architectures run with the quick tests, all of them with the long ones. What an architecture lacks is refused in one line. The
refusals are listed here and in docs/limits.md.
"""

import json
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_cases import SIZES, saved

from analyses.results.exporting import export
from analyses.runs.execute import run
from analyses.runs.run_inputs import Context, inputs, plain_scorer, subsets
from analyses.runs.untuned import scorer_for
from analyses.specs import PredictSpec, SliceSpec, SpectrumSpec, TrainSpec
from analyses.store import Row, Store
from apet.errors import ApetError, Interrupted
from apet.models import load_model
from apet.scoring import evaluate
from apet.training import loop

ROOT = Path(__file__).parents[3]
QUICK = ("llama", "roberta", "bart")
METHODS = {
    "apet": {"k": 20}, "fastfood": {"k": 5, "subspace": "fastfood"}, "full": {"method": "full"}, "bitfit": {"method": "bitfit"},
    "adapter": {"method": "adapter"}, "lora": {"method": "lora"}, "prompt": {"method": "prompt", "method_option": "tokens=4"},
    "prefix": {"method": "prefix", "method_option": "tokens=4"},
}  # fmt: skip
ANALYSES = {
    "hessian": SpectrumSpec(k=6, algorithm="exact", matrix="hessian", examples=4),
    "gauss-newton": SpectrumSpec(k=6, algorithm="exact", matrix="ggn", examples=4),
    "slice": SliceSpec(k=6, points=3, examples=4),
    "predict": PredictSpec(examples=2),
}
FORM = {"prompt": "peft", "prefix": "peft"} | dict.fromkeys(("apet", "fastfood", "full", "bitfit", "adapter", "lora"), "merged")
# (architecture, method or analysis) -> what the architecture lacks
REFUSED = {
    **dict.fromkeys(product(("mamba", "mamba2", "rwkv", "fnet"), ("lora", "adapter")), "has no self-attention in a list of blocks"),
    ("xlnet", "adapter"): "has no last linear projection",
    ("xlm", "adapter"): "has no feed-forward part in one block with",
    **{
        (kind, "prefix"): "prefixes need keys and values that the model caches"
        for kind in (
            "albert", "distilbert", "deberta-v2", "modernbert", "mpnet", "fnet", "xlm", "openai-gpt", "mamba", "mamba2", "rwkv", "xlnet",
        )
    },
}  # fmt: skip
# A checkpoint holds neither a projection's coordinates nor new parameters. In a model without biases, bitfit adds new ones.
NOT_EXPORTED = {"fastfood": "only runs without a projection are exported", "adapter": "cannot hold"}
WITHOUT_BIASES = ("llama", "mistral", "qwen3", "gemma2", "mixtral", "olmoe", "qwen3_moe", "mpt", "t5", "mt5")


def _long(kind: str) -> tuple:
    return () if kind in QUICK else (pytest.mark.long,)


every_method = pytest.mark.parametrize(
    ("kind", "method"), [pytest.param(kind, method, marks=_long(kind)) for kind in SIZES for method in METHODS]
)
every_analysis = pytest.mark.parametrize(
    ("kind", "analysis"), [pytest.param(kind, name, marks=_long(kind)) for kind in SIZES for name in ANALYSES]
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a function: architecture -> folder of a tiny model."""
    root = tmp_path_factory.mktemp("models")
    return lambda kind: root / kind if (root / kind).exists() else saved(kind, root / kind)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rows = [{"sentence": f"{'a good' if i % 2 else 'not a nice'} film number {i}", "label": i % 2} for i in range(12)]
    (root / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (root / "validation.jsonl").write_text("\n".join(map(json.dumps, rows[::-1])).replace("film", "play") + "\n")
    return root


@every_method
def test_a_method_trains_resumes_and_is_exported(kind, method, folders, data, tmp_path, monkeypatch):
    keeps = method not in ("apet", "fastfood")
    spec = TrainSpec(
        model=str(folders(kind)), task="sst2", readout="words", steps=2, batch=4, lr=1e-3, early_stop=False, examples=8, keep_end=keeps,
        **METHODS[method],
    )  # fmt: skip
    stores = [Store(tmp_path / "whole"), Store(tmp_path / "resumed")]
    if (kind, method) in REFUSED:
        return _refused(REFUSED[kind, method], lambda: run(spec, stores[0], data))
    name = run(spec, stores[0], data)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "interruptible", _after_one_step)
        with pytest.raises(Interrupted, match="interrupted at step 1"):
            run(spec, stores[1], data)
    assert run(spec, stores[1], data) == name
    rows = stores[0].rows(name)
    assert rows == stores[1].rows(name)
    values = {(row.quantity, row.split): row.value for row in rows}
    assert values["steps", None] == 2
    assert values["loss", "train"] != values["initial_loss", "train"]
    reason = NOT_EXPORTED.get(method) or ("cannot hold" if method == "bitfit" and kind in WITHOUT_BIASES else "")
    if reason:
        return _refused(reason, lambda: export(stores[0].folder(name), FORM[method], tmp_path / "out"))
    # A merged weight is rounded, and the large weights of these models make much of a rounding.
    assert _loss_after_export(spec, stores[0], name, FORM[method], data, tmp_path) == pytest.approx(values["loss", "train"], rel=1e-4)


@every_analysis
def test_an_architecture_has_curvature_slices_and_predictions(kind, analysis, folders, data, tmp_path):
    spec = replace(ANALYSES[analysis], model=str(folders(kind)), task="sst2").resolved()
    store = Store(tmp_path)
    if (kind, analysis) in REFUSED:
        return _refused(REFUSED[kind, analysis], lambda: run(spec, store, data))
    rows: list[Row] = store.rows(run(spec, store, data))
    assert rows
    defects = [row.value for row in rows if row.quantity == "symmetry_defect"]
    assert all(defect < 1e-3 for defect in defects)
    if analysis == "gauss-newton":
        assert min(row.value for row in rows if row.quantity == "eigenvalue") >= 0
    if analysis == "slice":
        centre = next(row.value for row in rows if row.quantity == "slice_loss" and row.split == "train" and row.x == 0)
        model = inputs(spec, data)
        assert centre == pytest.approx(_loss(spec, model), rel=1e-5)


def test_the_refusals_are_few_and_stand_in_the_documentation():
    page = (ROOT / "docs/limits.md").read_text()
    assert all(f"`{kind}`" in page and f"`{what}`" in page for kind, what in REFUSED)
    named = {"llama", "qwen3", "gemma2", "opt", "gpt_neox", "falcon", "roberta", "deberta-v2", "modernbert", "bart", "pegasus", "mt5"}
    assert named <= set(SIZES)
    assert not [pair for pair in REFUSED if pair[0] in named and pair[1] in ("lora", "adapter", "full", "apet", "fastfood", "bitfit")]
    assert len({kind for kind, _ in REFUSED}) <= len(SIZES) / 2


@contextmanager
def _after_one_step():
    steps = iter([True])
    yield lambda: next(steps, False)


def _refused(reason: str, work) -> None:
    with pytest.raises(ApetError, match=reason) as error:
        work()
    assert "\n" not in str(error.value)


def _loss_after_export(spec, store, name, form, data, tmp_path) -> float:
    """Return the loss on the training examples of the exported model, loaded without the run."""
    export(store.folder(name), form, tmp_path / "out")
    loaded = load_model(str(tmp_path / "out") if form == "merged" else spec.model)
    model = loaded.model if form == "merged" else PeftModel.from_pretrained(loaded.model, str(tmp_path / "out")).eval()
    scorer = plain_scorer(spec, loaded)
    scorer.prior = torch.as_tensor(store.arrays(name)["prior"])
    # One example at a time: peft itself does not correct positions for padding between virtual tokens and a text.
    return evaluate(model, scorer, subsets(spec, inputs(spec, data))[0], size=1)["loss"].value


def _loss(spec, found) -> float:
    scorer = scorer_for(spec, found, Context(Path(), lambda *_: None, afresh=True))
    return evaluate(found.loaded.model, scorer, subsets(spec, found)[0])["loss"].value
