"""Models in GGUF files: the weights are those that were written, quantised ones as gguf itself converts them back."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apet.errors import MissingInput
from apet.models.loading import load_model
from apet.scoring import scorer_of
from apet.tasks import TASKS

needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed")
WIDTH, INNER, HEADS, LAYERS = 32, 64, 4, 2
WORDS = ["a", "film", "great", "terrible", "good", "bad", "lovely", "it", "was"]


def vocabulary() -> tuple[list[str], list[str]]:
    """Return (tokens, merges) of a small byte-level BPE that knows the words of a review behind a space."""
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz.,!?'", "Ġ"})
    tokens, merges = ["<unk>", "<s>", "</s>", *letters], []
    for word in [f"Ġ{word}" for word in WORDS]:
        for i in range(1, len(word)):
            if f"{word[:i]} {word[i]}" not in merges:
                merges.append(f"{word[:i]} {word[i]}")
                tokens.append(word[: i + 1])
    return tokens, merges


def write(path: Path, quantised: bool = False, tokenizer: str = "gpt2") -> dict[str, np.ndarray]:
    """Write a tiny Llama to `path`. Return its weights by their names in the file, after quantisation."""
    import gguf  # pyright: ignore[reportMissingImports] (an extra)

    tokens, merges = vocabulary()
    numbers, rows = np.random.default_rng(3), len(tokens)
    shapes = {"token_embd": (rows, WIDTH), "output": (rows, WIDTH), "output_norm": (WIDTH,)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.{name}": (WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"blk.{i}.ffn_gate": (INNER, WIDTH), f"blk.{i}.ffn_up": (INNER, WIDTH), f"blk.{i}.ffn_down": (WIDTH, INNER)}
        shapes |= {f"blk.{i}.attn_norm": (WIDTH,), f"blk.{i}.ffn_norm": (WIDTH,)}
    file = gguf.GGUFWriter(path, "llama")
    file.add_name("tiny")
    file.add_context_length(128)
    file.add_embedding_length(WIDTH)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(INNER)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_freq_base(10000.0)
    file.add_rope_dimension_count(WIDTH // HEADS)
    file.add_vocab_size(rows)
    file.add_tokenizer_model(tokenizer)
    file.add_token_list(tokens)
    file.add_token_merges(merges)
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_unk_token_id(0)
    written = {}
    for name, shape in shapes.items():
        values = numbers.normal(size=shape).astype(np.float32)
        if quantised and len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            packed = gguf.quantize(values, kind)
            file.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
            values = gguf.dequantize(packed, kind)
        else:
            file.add_tensor(f"{name}.weight", values)
        written[name] = values
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return written


def rotary_order(matrix: np.ndarray) -> np.ndarray:
    """Return a query or key matrix with rows in transformers' order: first the even rows of a head, then the odd ones."""
    return matrix.reshape(HEADS, WIDTH // HEADS // 2, 2, -1).swapaxes(1, 2).reshape(matrix.shape)


@needs_gguf
@pytest.mark.parametrize("quantised", [False, True])
def test_weights_are_those_of_the_file_in_float32(quantised: bool, tmp_path: Path) -> None:
    written = write(tmp_path / "tiny.gguf", quantised)
    loaded: Any = load_model(str(tmp_path / "tiny.gguf"))
    assert loaded.form == "causal" and len(loaded.fingerprint) == 64
    assert loaded.parameters == sum(values.size for values in written.values())
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    layer = loaded.model.model.layers[1]
    found = {
        "token_embd": loaded.model.model.embed_tokens, "output": loaded.model.lm_head, "output_norm": loaded.model.model.norm,
        "blk.1.attn_v": layer.self_attn.v_proj, "blk.1.attn_output": layer.self_attn.o_proj, "blk.1.ffn_gate": layer.mlp.gate_proj,
        "blk.1.ffn_down": layer.mlp.down_proj, "blk.1.ffn_norm": layer.post_attention_layernorm,
    }  # fmt: skip
    for name, module in found.items():
        np.testing.assert_array_equal(module.weight.detach().numpy(), written[name], err_msg=name)
    for name, module in (("blk.1.attn_q", layer.self_attn.q_proj), ("blk.1.attn_k", layer.self_attn.k_proj)):
        np.testing.assert_array_equal(module.weight.detach().numpy(), rotary_order(written[name]))


@needs_gguf
def test_a_gguf_model_answers_in_words_and_by_a_head_and_has_a_random_twin(tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf")
    path, reviews = str(tmp_path / "tiny.gguf"), [{"sentence": "a lovely film", "label": 1}, {"sentence": "a bad film", "label": 0}]
    first, headed, twin = load_model(path), load_model(path, classes=2), load_model(path, random_init=True)
    assert (first.form, headed.form) == ("causal", "head") and first.parameters == twin.parameters
    assert first.fingerprint == load_model(path).fingerprint != twin.fingerprint
    for loaded in (first, headed, twin):
        scorer = scorer_of(loaded, TASKS["sst2"])
        (batch,) = scorer.batches(reviews, 2)
        assert scorer.logits(loaded.model, batch).shape == (2, 2)
    assert headed.model.drawn == {"score.weight"}


@needs_gguf
def test_a_file_or_a_tokenizer_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "odd.gguf", tokenizer="odd")
    (tmp_path / "text.gguf").write_text("not a model")
    for name, said in (("odd", "the tokenizer of .*odd.gguf cannot be read"), ("text", "the configuration of .*text.gguf cannot be read")):
        with pytest.raises(MissingInput, match=said) as caught:
            load_model(str(tmp_path / f"{name}.gguf"))
        assert "\n" not in str(caught.value)


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("apet.models.locations.find_spec", lambda name: None)
    with pytest.raises(MissingInput, match=r"tiny.gguf is a GGUF file, which needs the package gguf: run 'pip install gguf'"):
        load_model(str(tmp_path / "tiny.gguf"))


def test_a_missing_file_is_one_line() -> None:
    with pytest.raises(MissingInput, match="no model file missing.gguf: check the path"):
        load_model("missing.gguf")
