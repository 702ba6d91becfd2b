"""The card of a merged checkpoint shows how to compute its answers with transformers alone."""

import re
from dataclasses import replace

import pytest
import torch
from tiny_cases import saved, with_bos

from apet.models.ladder import ladder_tokenizer
from apet.models.loading import load_model
from apet.scoring import scorer_of
from apet.scoring.verbaliser import Verbaliser, model_card, saved_verbaliser
from apet.tasks.task_table import TASKS


def test_the_code_of_a_card_puts_the_bos_where_the_scorer_does(tmp_path, monkeypatch):
    folder = saved("llama", tmp_path, with_bos(), bos_token_id=3)
    loaded = load_model(str(folder))
    scorer = scorer_of(loaded, TASKS["sst2"])
    scorer.prior = torch.tensor([0.5, -0.25])
    Verbaliser.of(scorer).save(folder)
    (code,) = re.findall(r"```python\n(.*?)```", model_card("llama", scorer, "causal", "AutoModelForCausalLM"), re.DOTALL)
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(code, names)
    example = {"sentence": "a lovely film", "label": 1}
    with torch.no_grad():
        (wanted,) = scorer.logits(loaded.model, next(scorer.batches([example], 1)))
    torch.testing.assert_close(names["logits"]({"sentence": "a lovely film"}), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "form", "auto", "chat"),
    [
        ("bart", "encoder-decoder", "AutoModelForSeq2SeqLM", False),
        ("llama", "causal", "AutoModelForCausalLM", False),
        ("llama", "causal", "AutoModelForCausalLM", True),
        ("bert", "masked", "AutoModelForMaskedLM", False),
    ],
)
def test_the_code_of_a_card_scores_whole_words(kind, form, auto, chat, tmp_path, monkeypatch):
    tokenizer = ladder_tokenizer({"bart": "t5", "llama": "bloom", "bert": "bert"}[kind])
    tokenizer.chat_template = "[CLS]{{ messages[0]['content'] }}[SEP]"
    folder = saved(kind, tmp_path, tokenizer)
    loaded = load_model(str(folder))
    scorer = scorer_of(loaded, replace(TASKS["sst2"], words=("really great", "fun"), scoring="whole"), chat=chat)
    scorer.prior = torch.tensor([0.5, -0.25])
    verbaliser = Verbaliser.of(scorer)
    verbaliser.save(folder)
    assert saved_verbaliser(folder) == verbaliser and verbaliser.prompt == ("chat" if chat else "plain")
    assert verbaliser.asks(scorer.task, verbaliser.prompt) and not verbaliser.asks(scorer.task, "plain" if chat else "chat")
    (code,) = re.findall(r"```python\n(.*?)```", model_card(kind, scorer, form, auto), re.DOTALL)
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(code, names)
    with torch.no_grad():
        (wanted,) = scorer.logits(loaded.model, next(scorer.batches([{"sentence": "a lovely film", "label": 1}], 1)))
    torch.testing.assert_close(names["logits"]({"sentence": "a lovely film"}), wanted, rtol=1e-4, atol=1e-4)
