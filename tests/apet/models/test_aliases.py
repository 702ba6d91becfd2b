"""The table of known models: its counts equal the architectures', and the published numbers."""

import time
from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig

from apet.models import models_table
from apet.models.aliases import ALIASES, BUILT_IN
from apet.models.ladder import every_name, ladder_names
from apet.models.loading import load_model
from apet.models.net_names import NET_NAMES

# Counts of the checkpoints, from their papers, model cards or the Hub. For BERT, DeBERTa and ELECTRA they have no head.
PUBLISHED = {
    "bert-base": 109_482_240, "bert-large": 335_141_888,
    "t5-small": 76_961_152, "t5-base": 247_577_856, "t5-large": 783_150_080, "t5-xl": 2_849_757_184, "t5-xxl": 11_135_332_352,
    "bloom-560m": 559_214_592, "bloom-1b1": 1_065_314_304, "bloom-1b7": 1_722_408_960, "bloom-3b": 3_002_557_440,
    "bloom-7b1": 7_069_016_064,
    "pythia-14m": 14_067_712, "pythia-31m": 30_494_720, "pythia-70m": 70_426_624, "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016, "pythia-1b": 1_011_781_632, "pythia-1.4b": 1_414_647_808, "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016, "pythia-12b": 11_846_072_320,
    "gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200,
    "opt-125m": 125_239_296, "opt-350m": 331_196_416, "opt-1.3b": 1_315_758_080, "opt-2.7b": 2_651_596_800, "opt-6.7b": 6_658_473_984,
    "opt-13b": 12_853_473_280,
    "smollm2-135m": 134_515_008, "smollm2-360m": 361_821_120, "smollm2-1.7b": 1_711_376_384,
    "qwen2.5-0.5b": 494_032_768, "qwen2.5-1.5b": 1_543_714_304, "qwen2.5-3b": 3_085_938_688, "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920, "qwen3-1.7b": 1_720_574_976, "qwen3-4b": 4_022_468_096, "qwen3-8b": 8_190_735_360,
    "llama-3.2-1b": 1_235_814_400, "llama-3.2-3b": 3_212_749_824,
    "gemma-3-270m": 268_098_176, "gemma-3-1b": 999_885_952,
    "flan-t5-small": 76_961_152, "flan-t5-base": 247_577_856, "flan-t5-large": 783_150_080, "flan-t5-xl": 2_849_757_184,
    "flan-t5-xxl": 11_135_332_352,
    "roberta-base": 124_697_433, "roberta-large": 355_412_057,
    "deberta-v3-xsmall": 70_682_112, "deberta-v3-small": 141_304_320, "deberta-v3-base": 183_831_552, "deberta-v3-large": 434_012_160,
    "modernbert-base": 149_655_232, "modernbert-large": 395_881_664,
    "electra-small": 13_483_008, "electra-base": 108_891_648, "electra-large": 334_092_288,
}  # fmt: skip
SLIDING = ("gemma-3-270m", "modernbert-base")  # most layers attend to a window
HEADLESS = ("bert", "deberta-v3", "electra")
FORMS = {"t5": "encoder-decoder", "flan-t5": "encoder-decoder"}
FORMS |= dict.fromkeys(("bert", "roberta", "deberta-v3", "modernbert", "electra", "electra-generator"), "masked")


@pytest.mark.parametrize("name", [*ALIASES, *every_name(), *NET_NAMES])
def test_the_table_counts_what_the_architecture_has(name: str) -> None:
    loaded, known = load_model(name, shapes_only=True), ALIASES[name].count if name in ALIASES else BUILT_IN[name]
    assert (loaded.parameters, loaded.without_embeddings) == (known.parameters, known.without_embeddings)
    config = getattr(loaded.model, "config", None)
    assert known.layers == (None if config is None else config.num_hidden_layers)
    assert all(p.is_meta for p in loaded.model.parameters()) and loaded.fingerprint == ""
    if name in ALIASES:
        assert loaded.form == FORMS.get(ALIASES[name].family, "causal")


@pytest.mark.parametrize("alias", PUBLISHED)
def test_aliases_have_the_published_number_of_parameters(alias: str) -> None:
    if ALIASES[alias].family not in HEADLESS:
        assert ALIASES[alias].count.parameters == PUBLISHED[alias]
        return
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(AutoConfig.for_model(**ALIASES[alias].config))
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[alias]


def test_fields_that_no_count_shows_reach_the_architecture() -> None:
    def read(alias: str) -> Any:
        return AutoConfig.for_model(**ALIASES[alias].config)

    def rotary(alias: str) -> dict[str, Any]:
        return read(alias).rope_parameters

    assert (rotary("pythia-70m")["partial_rotary_factor"], rotary("smollm2-135m")["rope_theta"]) == (0.25, 100_000)
    assert (rotary("smollm2-1.7b")["rope_theta"], rotary("qwen3-0.6b")["rope_theta"]) == (130_000, 1_000_000)
    assert (rotary("llama-3.2-1b")["rope_type"], rotary("llama-3.2-1b")["factor"]) == ("llama3", 32.0)
    for alias, thetas in (("gemma-3-1b", (1e6, 1e4)), ("modernbert-base", (160_000.0, 10_000.0))):
        assert tuple(rotary(alias)[kind]["rope_theta"] for kind in ("full_attention", "sliding_attention")) == thetas
    whole = {alias: [i for i, kind in enumerate(read(alias).layer_types) if kind == "full_attention"] for alias in SLIDING}
    assert whole == {"gemma-3-270m": [5, 11, 17], "modernbert-base": [0, 3, 6, 9, 12, 15, 18, 21]}


def test_the_table_lists_every_known_model_once_by_family() -> None:
    rows = models_table()
    names, families = [row["name"] for row in rows], [row["family"] for row in rows]
    assert names == [*ladder_names(), *ALIASES, *NET_NAMES] and len({tuple(row) for row in rows}) == 1
    assert len(set(families)) == 1 + sum(before != after for before, after in pairwise(families))
    table = dict(zip(names, rows, strict=True))
    assert table["t5-xl"]["source"] == "google/t5-v1_1-xl" and table["qwen2.5-3b"]["licence"] == "Qwen Research"
    assert len({alias.hub_id for alias in ALIASES.values()}) == len(ALIASES)


def test_shapes_of_the_largest_model_take_no_memory_and_little_time() -> None:
    started = time.process_time()
    load_model("t5-xxl", shapes_only=True)
    assert time.process_time() - started < 5
