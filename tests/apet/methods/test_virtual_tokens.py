"""Prompts and prefixes on all architectures: the function of real tokens, independence of padding, and refusals in one line."""

import copy

import pytest
import torch
from tiny_cases import SIZES, random_model, tiny
from torch import nn
from transformers import T5Config

from apet.errors import UsageError
from apet.methods import PlacementConfig, count_tuned, make_tunable
from apet.scoring import check_padding, scorer_of
from apet.tasks.task_table import TASKS

COMMON = ("llama", "gpt2", "roberta", "bart", "albert", "distilbert", "mamba", "mpt", "gpt_neo", "modernbert")
NO_CACHE = {
    "openai-gpt", "mamba", "rwkv", "xlnet", "albert", "mpnet", "distilbert", "deberta-v2", "modernbert", "fnet", "xlm",
}  # fmt: skip
REVIEWS = [{"sentence": text, "label": 0} for text in ("a lovely film", "bad", "a very dull and far too long film of nothing at all")]
TOKENS = PlacementConfig(options="tokens=5")
MASKED = list(SIZES)[list(SIZES).index("bert") : list(SIZES).index("t5")]  # these also have a classification head
PAIRS = [(kind, None) for kind in SIZES] + [(kind, 2) for kind in MASKED]
every_kind = pytest.mark.parametrize(
    ("kind", "classes"), [pytest.param(*pair, marks=() if pair[0] in COMMON else pytest.mark.long) for pair in PAIRS]
)


def small(kind: str) -> nn.Module:
    changes = {"cls_token_id": 2, "sep_token_id": 2} if kind == "modernbert" else {}
    return random_model(kind, vocab_size=96, **changes)[0]


@every_kind
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_logits_behind_virtual_tokens_do_not_depend_on_padding(kind, classes, method):
    loaded = tiny(kind, classes)
    if method == "prefix" and kind in NO_CACHE:
        with pytest.raises(
            UsageError, match=rf"prefixes need keys and values .*: {type(loaded.model).__name__} does not have them"
        ) as error:
            make_tunable(method, loaded.model, TOKENS)
        assert "\n" not in str(error.value)
        return
    counted = count_tuned(method, loaded.model, "tokens=5")
    scorer = scorer_of(loaded, TASKS["sst2"], reserve=5)
    tunable = make_tunable(method, loaded.model, TOKENS)
    assert tunable.k == counted
    with torch.no_grad():
        for i, p in enumerate(tunable.trainable.values()):
            p.copy_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        check_padding(scorer, tunable.model)
        together = torch.cat([scorer.logits(tunable.model, batch) for batch in scorer.batches(REVIEWS, 3)])
        alone = torch.cat([scorer.logits(tunable.model, batch) for batch in scorer.batches(REVIEWS, 1)])
    assert alone.std(0).min() > 1e-5 * alone.abs().max()
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "bloom", "falcon", "mpt", "bert", "albert", "distilbert", "gemma2", "mamba"])
def test_a_prompt_of_real_embeddings_is_the_text_with_these_tokens_before_it(kind):
    model = small(kind)
    real, text = torch.tensor([[7, 11, 13, 17, 19]]), torch.tensor([[23, 29, 31, 37]])
    with torch.no_grad():
        wanted = model(input_ids=torch.cat([real, text], 1)).logits
        tunable = make_tunable("prompt", model, TOKENS)
        (prompt,) = tunable.trainable.values()
        prompt.copy_(model.get_input_embeddings()(real)[0])
        found = tunable.model(input_ids=text, attention_mask=torch.ones_like(text)).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "bloom", "falcon", "mpt", "qwen3", "gpt_bigcode", "xglm"])
def test_a_prefix_of_cached_keys_is_the_text_with_these_tokens_before_it(kind):
    model = small(kind)
    real, text = torch.tensor([[7, 11, 13, 17, 19]]), torch.tensor([[23, 29, 31, 37]])
    with torch.no_grad():
        wanted = model(input_ids=torch.cat([real, text], 1)).logits[:, 5:]
        layers = copy.deepcopy(model)(input_ids=real, use_cache=True).past_key_values.layers
        tunable = make_tunable("prefix", model, TOKENS)
        (prefix,) = tunable.trainable.values()  # (5, layers x 2 x heads x width)
        kept = torch.stack([each for layer in layers for each in (layer.keys[0], layer.values[0])])  # (2 layers, heads, 5, width)
        prefix.copy_(kept.permute(2, 0, 1, 3).reshape(5, -1))
        found = tunable.model(input_ids=text, attention_mask=torch.ones_like(text), use_cache=False).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_prefix_of_an_encoder_decoder_has_the_decoders_layers():
    model = random_model("bart", vocab_size=96, encoder_layers=1, decoder_layers=3, encoder_attention_heads=2)[0]
    assert count_tuned("prefix", model, "tokens=5") == make_tunable("prefix", model, TOKENS).k == 5 * 3 * 2 * 32


def test_a_prompt_needs_embeddings_as_inputs():
    class Plain(nn.Module):
        config = T5Config()

        @property
        def base_model(self) -> nn.Module:
            return self

        def forward(self, input_ids): ...

    with pytest.raises(UsageError, match="prompts need a model that accepts embeddings as inputs .*: Plain does not"):
        make_tunable("prompt", Plain())
