"""Models by name: the table's counts, checkpoints loaded by id from a cache, the forms of each family, and refused inputs."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_cases import saved, tiny
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, ByT5Tokenizer, PreTrainedTokenizerFast

from apet.errors import MissingInput, UsageError
from apet.methods import PlacementConfig, make_tunable, tunable_space
from apet.methods.tunable_model import classification_head
from apet.models.aliases import ALIASES
from apet.models.ladder import SIZES, build_ladder_model
from apet.models.loading import Loaded, fingerprint, load_model

IDS = {"google-t5/t5-small": "t5-small", "google-bert/bert-base-uncased": "bert-base", "bigscience/bloom-560m": "bloom-560m"}
FORMS = {"t5": "encoder-decoder", "bert": "masked", "bloom": "causal"}
SPECIAL = {
    "t5": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    "bert": {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"},
    "bloom": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
}
WORDS = ["the", "film", "was", "great", "terrible", "a", "lovely", "story"]


def small_config(alias: str) -> Any:
    """Return the alias's configuration with small sizes. All other fields are as published."""
    sizes = {
        "t5": {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4},
        "bert": {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
        "bloom": {"vocab_size": 128, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    }
    config = ALIASES[alias].config
    return AutoConfig.for_model(**{**config, **sizes[config["model_type"]]})


def small_tokenizer(family: str) -> PreTrainedTokenizerFast:
    special = SPECIAL[family]
    extra = [f"<extra_id_{i}>" for i in range(10)] if family == "t5" else []
    vocabulary = {piece: i for i, piece in enumerate([*special.values(), *WORDS, *extra])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = {"t5": "$A </s>", "bert": "[CLS] $A [SEP]", "bloom": "$A"}[family]
    used = [(piece, vocabulary[piece]) for piece in ends.split() if piece != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(single=ends, special_tokens=used)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=extra, **special)


def original(alias: str, kind: str | None = None) -> Any:
    """Return a small model as in a checkpoint: T5 with tied embeddings, BERT with both of its pretraining heads."""
    config = small_config(alias)
    config.dtype = torch.float32
    config._attn_implementation = "eager"
    names = {"t5": "T5ForConditionalGeneration", "bert": "BertForPreTraining", "bloom": "BloomForCausalLM"}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return getattr(transformers, kind or names[config.model_type])(config).eval()


def put_in_cache(cache: Path, hub_id: str, model: Any, tokenizer: Any, shard: str = "20KB", revision: str = "main") -> Path:
    """Write a model in the layout of the Hugging Face cache (blobs, snapshots of links to them, references). Return the snapshot."""
    commit = f"{len(revision):040x}"
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    made, snapshot = repository / "made", repository / "snapshots" / commit
    model.save_pretrained(made, max_shard_size=shard)
    if tokenizer is not None:
        tokenizer.save_pretrained(made)
    (repository / "blobs").mkdir(exist_ok=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(made.iterdir())):
        blob = repository / "blobs" / f"{len(revision):032x}{i:08x}"
        file.rename(blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    made.rmdir()
    reference = repository / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit)
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def logits(model: Any, loaded: Loaded) -> torch.Tensor:
    encoded = loaded.tokenizer("the film was great", return_tensors="pt")
    encoded.pop("token_type_ids", None)
    more = {"decoder_input_ids": torch.tensor([[0, 3, 4]])} if loaded.form == "encoder-decoder" else {}
    with torch.no_grad():
        output = model(**encoded, **more)
    return output["logits"] if "logits" in output else output["prediction_logits"]


# By id, from the cache


@pytest.mark.parametrize("hub_id", IDS)
def test_a_sharded_checkpoint_is_loaded_by_id_and_computes_the_same(hub_id: str, cache: Path) -> None:
    saved = original(IDS[hub_id])
    family = saved.config.model_type
    snapshot = put_in_cache(cache, hub_id, saved, small_tokenizer(family))
    assert len(list(snapshot.glob("model-*-of-*.safetensors"))) > 1
    loaded = load_model(hub_id)
    assert loaded.form == FORMS[family] and len(loaded.fingerprint) == 64
    assert loaded.model.config._commit_hash == snapshot.name
    tolerance = 2e-6 if family == "bloom" else 0.0  # BLOOM's own GELU has other rounding
    torch.testing.assert_close(logits(loaded.model, loaded), logits(saved, loaded), rtol=tolerance, atol=tolerance / 10)
    names = {"t5": "<extra_id_0>", "bert": "[MASK]", "bloom": "</s>"}
    assert loaded.tokenizer.convert_tokens_to_ids(names[family]) != loaded.tokenizer.unk_token_id
    assert load_model(hub_id).fingerprint == loaded.fingerprint


def test_an_alias_is_found_in_the_cache_by_its_id(cache: Path) -> None:
    put_in_cache(cache, "google-bert/bert-base-uncased", original("bert-base"), small_tokenizer("bert"))
    assert load_model("bert-base").fingerprint == load_model("google-bert/bert-base-uncased").fingerprint


@pytest.mark.long
def test_a_cached_model_is_found_by_the_environment_alone(tmp_path: Path) -> None:
    put_in_cache(tmp_path / "hub", "bigscience/bloom-560m", original("bloom-560m"), small_tokenizer("bloom"))
    code = "from apet.models.loading import load_model; print(load_model('bloom-560m').parameters)"
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sum(p.numel() for p in original("bloom-560m").parameters()))
    assert done.stderr == ""


def test_checkpoints_of_bare_models_get_their_tied_head(cache: Path) -> None:
    bare = original("bloom-560m", "BloomModel")  # BLOOM's checkpoints on the Hub have neither a head nor a prefix in their names
    put_in_cache(cache, "bigscience/bloom-560m", bare, small_tokenizer("bloom"))
    model: Any = load_model("bloom-560m").model
    assert model.lm_head.weight is model.transformer.word_embeddings.weight
    assert torch.equal(model.lm_head.weight, bare.word_embeddings.weight)


def test_the_head_of_t5_v1_1_stays_untied(cache: Path) -> None:
    put_in_cache(cache, "google-t5/t5-small", original("t5-small"), small_tokenizer("t5"))
    tied = load_model("google-t5/t5-small").model
    fresh: Any = load_model("google-t5/t5-small", random_init=True, seed=3).model
    assert not torch.equal(fresh.lm_head.weight, fresh.shared.weight)
    put_in_cache(cache, "google/t5-v1_1-small", fresh, small_tokenizer("t5"))
    again: Any = load_model("t5-small").model
    assert fingerprint(again) == fingerprint(fresh) != fingerprint(tied)
    assert not torch.equal(again.lm_head.weight, again.shared.weight)


def test_old_names_of_norms_are_read(cache: Path) -> None:
    saved = original("bert-base")  # bert-base-uncased has the names gamma and beta
    snapshot = put_in_cache(cache, "google-bert/bert-base-uncased", saved, small_tokenizer("bert"), shard="1GB")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def renamed(key: str) -> str:
        return next((key.replace(new, former) for new, former in old.items() if key.endswith(new)), key)

    weights = {renamed(key): tensor for key, tensor in load_file(snapshot / "model.safetensors").items()}
    save_file(weights, snapshot / "model.safetensors", {"format": "pt"})
    loaded = load_model("bert-base")
    torch.testing.assert_close(logits(loaded.model, loaded), logits(saved, loaded), rtol=1e-6, atol=1e-6)


def test_an_alias_is_read_without_the_type_in_its_config(cache: Path) -> None:
    snapshot = put_in_cache(cache, "google/bert_uncased_L-2_H-128_A-2", load_model("bert-tiny", random_init=True).model, None)
    for file in snapshot.glob("tokenizer*"):
        file.unlink()
    (snapshot / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film"]))
    config = json.loads((snapshot / "config.json").read_text())
    (snapshot / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != "model_type"}))
    loaded = load_model("bert-tiny")
    assert loaded.fingerprint == load_model("bert-tiny", random_init=True).fingerprint
    assert loaded.tokenizer("The film").input_ids == [2, 5, 6, 3]


def test_another_cached_revision_serves_where_only_it_has_safetensors(cache: Path) -> None:
    snapshot = put_in_cache(cache, "google-t5/t5-small", original("t5-small"), small_tokenizer("t5"), shard="1GB")
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    with pytest.raises(MissingInput, match=r"pytorch_model.bin, which is not a safetensors file: .*refs/pr"):
        load_model("google-t5/t5-small")
    other = put_in_cache(cache, "google-t5/t5-small", original("t5-small"), small_tokenizer("t5"), revision="refs/pr/4")
    loaded: Any = load_model("google-t5/t5-small").model
    assert loaded.config._commit_hash == other.name


# Forms


def ladder_bert(folder: Path) -> Any:
    """Write a ladder's BERT as an export does: both heads, tied tensors once, half precision."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model: Any = build_ladder_model("bert", "120k")
    folder.mkdir()
    save_file(
        {name: p.detach().to(torch.float16).contiguous() for name, p in model.named_parameters()},
        folder / "model.safetensors", {"format": "pt"},
    )  # fmt: skip
    (folder / "config.json").write_text(model.config.to_json_string())
    return model.half().float().eval()


@pytest.fixture
def shipped_bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("apet.models.locations.LADDER", tmp_path)
    return ladder_bert(tmp_path / "mini-bert-120k")


def test_a_pretraining_checkpoint_is_a_masked_model_and_a_classifier(shipped_bert: Any, capfd: pytest.CaptureFixture[str]) -> None:
    ids = torch.tensor([[3, 40, 41, 4]])
    masked: Any = load_model("mini-bert-120k")
    classifier: Any = load_model("mini-bert-120k", classes=3)
    assert (masked.form, classifier.form) == ("masked", "head")
    with torch.no_grad():
        known = shipped_bert(ids)
        torch.testing.assert_close(masked.model(ids).logits, known.prediction_logits, rtol=1e-6, atol=1e-6)
        pooled = shipped_bert.bert(ids).pooler_output
        expected = pooled @ classifier.model.classifier.weight.T + classifier.model.classifier.bias
        torch.testing.assert_close(classifier.model(ids).logits, expected, rtol=1e-5, atol=1e-6)
    assert expected.shape == (1, 3)
    assert capfd.readouterr().err == ""


def test_a_new_head_is_the_same_whatever_was_drawn_before(shipped_bert: Any) -> None:
    torch.manual_seed(1)
    first = load_model("mini-bert-120k", classes=3)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second: Any = load_model("mini-bert-120k", classes=3)
    assert first.fingerprint == second.fingerprint
    assert torch.equal(torch.random.get_rng_state(), state), "loading left the process's generator as it was"
    spread = second.model.classifier.weight.std().item() / second.model.config.initializer_range
    assert 0.5 < spread < 1.5 and second.model.classifier.bias.abs().max() == 0


def test_a_checkpoint_without_pooler_gets_one_in_the_head_but_needs_its_base(cache: Path) -> None:
    hub_id = "google-bert/bert-base-uncased"
    snapshot = put_in_cache(cache, hub_id, original("bert-base", "BertForMaskedLM"), small_tokenizer("bert"), shard="1GB")
    assert load_model(hub_id, classes=2).fingerprint == load_model(hub_id, classes=2).fingerprint
    weights = load_file(snapshot / "model.safetensors")
    gone = "bert.encoder.layer.1.output.dense.weight"
    save_file({key: t for key, t in weights.items() if key != gone}, snapshot / "model.safetensors", {"format": "pt"})
    for classes in (None, 2):
        with pytest.raises(MissingInput, match=f"{gone} is missing"):
            load_model(hub_id, classes=classes)


@pytest.mark.parametrize(
    ("kind", "form"), [("gpt2", "causal"), ("roberta", "masked"), ("bart", "encoder-decoder"), ("distilbert", "masked")]
)
def test_other_families_are_loaded_from_folders(kind: str, form: str, tmp_path: Path) -> None:
    small = {"vocab_size": 64, "max_position_embeddings": 40, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    sizes = {
        "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 40},
        "roberta": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
        "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
                 "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
        "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
    }  # fmt: skip
    config = AutoConfig.for_model(kind, **{**small, **sizes[kind]})
    auto = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM", "encoder-decoder": "AutoModelForSeq2SeqLM"}
    saved = getattr(transformers, auto[form]).from_config(config)
    saved.save_pretrained(tmp_path)
    small_tokenizer("bert").save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert loaded.form == form and loaded.fingerprint == fingerprint(saved)
    if form == "masked":
        assert load_model(str(tmp_path), classes=2).form == "head"


# Loaded models


def test_blooms_gelu_is_the_same_function_and_can_be_taken_apart(cache: Path) -> None:
    saved = original("bloom-560m")
    put_in_cache(cache, "bigscience/bloom-560m", saved, small_tokenizer("bloom"))
    loaded = load_model("bloom-560m")
    assert not any(type(m).__name__ == "BloomGelu" for m in loaded.model.modules())
    torch.testing.assert_close(logits(loaded.model, loaded), logits(saved, loaded), rtol=2e-6, atol=2e-7)
    gelu: Any = next(m for m in loaded.model.modules() if isinstance(m, torch.nn.GELU))
    assert torch.func.hessian(lambda x: gelu(x).sum())(torch.ones(2)).shape == (2, 2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_have_the_asked_type(dtype: str) -> None:
    for random_init in (False, True):
        model = load_model("mini-t5-240k", random_init, dtype=dtype).model
        # transformers keeps the last projection of T5's feed-forward layers in float32 if the other weights are float16
        assert {str(p.dtype) for name, p in model.named_parameters() if ".wo." not in name} == {f"torch.{dtype}"}


def test_both_kinds_of_attention_agree_and_eager_differentiates_twice() -> None:
    losses = []
    for attention in ("eager", "sdpa"):
        model: Any = load_model("mini-t5-240k", attention=attention).model
        losses.append(model(input_ids=torch.tensor([[40, 41, 1]]), labels=torch.tensor([[6, 1]])).loss)
        if attention == "eager":
            weight = model.encoder.block[0].layer[0].SelfAttention.q.weight
            (gradient,) = torch.autograd.grad(losses[0], weight, create_graph=True)
            (second,) = torch.autograd.grad(gradient.square().sum(), weight)
            assert second.isfinite().all() and second.abs().max() > 0
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bert-tiny", "mini-bert-120k", "mini-bloom-120k", "mini-t5-240k"])
def test_fresh_weights_follow_from_the_seed_alone(name: str) -> None:
    torch.manual_seed(0)
    first, other = load_model(name, random_init=True, seed=4), load_model(name, random_init=True, seed=5)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    again = load_model(name, random_init=True, seed=4)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.tokenizer.mask_token == "[MASK]" and not again.model.training


# Refused names and options


def test_unknown_names_are_usage_errors_and_missing_ids_name_the_download(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="did you mean bert-small"):
        load_model("bert-smal")
    with pytest.raises(MissingInput, match="'hf download google/t5-v1_1-xl'"):
        load_model("t5-xl")
    with pytest.raises(MissingInput, match="'hf download facebook/opt-125m'"):
        load_model("facebook/opt-125m")
    with pytest.raises(MissingInput, match="no model folder"):
        load_model("results/run/merged")
    monkeypatch.setitem(SIZES["bert"], "9k", (8, 2, 1))
    with pytest.raises(MissingInput, match="not shipped with weights"):
        load_model("mini-bert-9k")


def test_wrong_options_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="unknown dtype 'float23': did you mean float"):
        load_model("mini-t5-240k", dtype="float23")
    with pytest.raises(UsageError, match="unknown attention 'flash'"):
        load_model("mini-t5-240k", attention="flash")
    with pytest.raises(UsageError, match="classes = 0 must be at least 2 for a classification head, or 1 for a regression"):
        load_model("bert-tiny", classes=0, random_init=True)
    with pytest.raises(UsageError, match="bloom model, which does not support sdpa attention"):
        load_model("bloom-560m", shapes_only=True, attention="sdpa")


def test_models_of_another_kind_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="is a vit model"):
        load_model(str(tmp_path))


def broken(tmp_path: Path, change: str) -> Path:
    """Return a folder with a small BERT that has one defect."""
    original("bert-base", "BertForMaskedLM").save_pretrained(tmp_path, max_shard_size="20KB" if "shard" in change else "1GB")
    small_tokenizer("bert").save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    if change == "config cut":
        config.write_text(config.read_text()[:40])
    elif change == "config of another type":
        config.write_text(json.dumps({"model_type": "berd"}))
    elif change == "config with a wrong field":
        config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": "wide"}))
    elif change == "config of another size":
        config.write_text(json.dumps({**json.loads(config.read_text()), "intermediate_size": 48}))
    elif change == "weights cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif change == "weights are text":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif change == "a shard lacks":
        sorted(tmp_path.glob("model-*.safetensors"))[1].unlink()
    elif change == "the shards' index is cut":
        (tmp_path / "model.safetensors.index.json").write_text("{")
    elif change == "tokenizer cut":
        (tmp_path / "tokenizer.json").write_text("{")
    elif change == "no tokenizer":
        for file in tmp_path.glob("tokenizer*"):
            file.unlink()
    elif change == "no config":
        config.unlink()
    elif change == "no weights":
        weights.unlink()
    return tmp_path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("config cut", "config.json of .* cannot be read"),
        ("config of another type", "config.json of .* cannot be read: .*berd"),
        ("config with a wrong field", "config.json of .* cannot be read: .*hidden_size"),
        (
            "config of another size",
            r"do not fit its config: bert.encoder.layer.0.intermediate.dense.bias has shape \(64,\), .* requires \(48,\)",
        ),
        ("weights cut", "the weights of .* cannot be read"),
        ("weights are text", "the weights of .* cannot be read"),
        ("a shard lacks", r"model-00002-of-(\d+).safetensors \(1 of \d+ shards\) is missing"),
        ("the shards' index is cut", "a readable model.safetensors.index.json is missing"),
        ("tokenizer cut", "the tokenizer of .* cannot be read"),
        ("no tokenizer", "has no tokenizer"),
        ("no config", "config.json is missing"),
        ("no weights", "model.safetensors is missing"),
    ],
)
def test_a_broken_folder_is_one_clear_line(change: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=said) as caught:
        load_model(str(broken(tmp_path, change)))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_vocabulary_file_alone_is_a_tokenizer(tmp_path: Path) -> None:
    folder = broken(tmp_path, "no tokenizer")  # Google's small BERTs have only vocab.txt
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "##s"]))
    assert load_model(str(folder)).tokenizer("The films xx").input_ids == [2, 5, 6, 7, 1, 3]


def test_a_sentencepiece_model_says_what_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_sentencepiece_available", lambda: False)
    folder = broken(tmp_path, "no tokenizer")
    (folder / "spiece.model").write_bytes(b"")
    with pytest.raises(MissingInput, match="pip install sentencepiece protobuf"):
        load_model(str(folder))


def test_fresh_weights_of_a_folder_need_its_config_only(tmp_path: Path) -> None:
    small_config("bloom-560m").save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), random_init=True)
    assert loaded.form == "causal" and loaded.tokenizer.vocab_size == 4096


def test_an_incomplete_download_names_the_command(cache: Path) -> None:
    snapshot = put_in_cache(cache, "bigscience/bloom-560m", original("bloom-560m"), small_tokenizer("bloom"))
    next(iter(snapshot.glob("model-*.safetensors"))).unlink()
    with pytest.raises(MissingInput, match=r"\(1 of \d+ shards\) is missing: run 'hf download bigscience/bloom-560m'"):
        load_model("bloom-560m")


def test_code_that_comes_with_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(MissingInput):
        load_model(str(tmp_path))
    assert not (tmp_path / "ran").exists()


# Other files in a model's folder


def test_an_adapter_beside_a_model_is_refused(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path)
    before = load_model(str(folder)).fingerprint
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "somebody/else"}))
    with pytest.raises(UsageError, match=r"holds a peft adapter \(adapter_config\.json\): merge it into its model"):
        load_model(str(folder))
    (folder / "adapter_config.json").unlink()
    assert load_model(str(folder)).fingerprint == before


@pytest.mark.parametrize("name", ["layers.0.self_attn.q_proj.lora_A.default.weight", "layers.0.adapter.down.weight"])
def test_weights_of_a_method_that_was_not_merged_are_refused(name: str, tmp_path: Path) -> None:
    folder = saved("llama", tmp_path)
    weights = load_file(folder / "model.safetensors") | {f"model.{name}": torch.ones(4, 32)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=f"holds model.{name} in addition to the model's weights: merge the tuned parameters"):
        load_model(str(folder))


def test_a_tokenizer_of_bytes_needs_no_vocabulary_file(tmp_path: Path) -> None:
    folder = saved("t5", tmp_path, ByT5Tokenizer(), vocab_size=384)
    assert load_model(str(folder)).tokenizer("ab")["input_ids"] == [100, 101, 1]
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    with pytest.raises(MissingInput, match="has no tokenizer on this machine"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("kind", "drawn", "own"),
    [
        ("distilbert", {"pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "classifier.bias"}, ()),
        ("deberta-v2", {"pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias"}, ()),
        ("bert", {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}, ()),
        ("modernbert", {"classifier.weight", "classifier.bias"}, ("head.dense.weight", "head.norm.weight")),
    ],
)
def test_all_that_is_drawn_for_a_task_is_the_head_and_what_the_checkpoint_holds_is_the_models(kind: str, drawn: set, own: tuple) -> None:
    loaded = tiny(kind, 2)
    head = classification_head(loaded.model)
    assert set(head) == drawn
    for method in ("bitfit", "apet"):
        mounted = make_tunable(method, copy.deepcopy(loaded.model), PlacementConfig(k=20 if method == "apet" else None))
        assert mounted.head == drawn and mounted.k_head == sum(p.numel() for p in head.values())
        assert all(mounted.trainable[name].requires_grad for name in drawn)
    names = tunable_space(loaded.model, scope="all").names
    assert not drawn & set(names) and set(own) <= set(names)
