"""Label words of several tokens: scores compared with transformers' log-softmax, one example and one word at a time, without padding."""

from dataclasses import replace

import pytest
import torch
from scoring_cases import REVIEWS, inputs, ready
from tiny_cases import tiny
from torch import Tensor

from apet.gram import gram_matrix
from apet.methods import make_tunable
from apet.models.loading import Loaded
from apet.scoring import Scorer, evaluate, scorer_of
from apet.scoring.scorer_choice import text_positions
from apet.subspaces import ParameterSpace, all_names
from apet.tasks.task_table import TASKS

WORDS = ("really great", "really terrible film", "fun")
TASK = replace(TASKS["sst2"], words=WORDS)
CAUSAL, ENCODER_DECODER, MASKED = ("llama", "gpt2", "bloom", "mamba"), ("t5", "bart"), ("bert", "roberta")
KINDS = (*CAUSAL, *ENCODER_DECODER, *MASKED)


def by_hand(loaded: Loaded, sentence: str, word: str) -> float:
    """Return the mean log-probability of the word's tokens."""
    model, tokenizer = loaded.model, loaded.tokenizer
    tokens = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        if loaded.form == "causal":
            text = tokenizer(f"{sentence} it was", add_special_tokens=False)["input_ids"]
            log_p = model(torch.tensor([text + tokens]), use_cache=False).logits[0].log_softmax(-1)
            at = range(len(text) - 1, len(text) + len(tokens) - 1)
        elif loaded.form == "encoder-decoder":
            before = [0, tokenizer.convert_tokens_to_ids("<extra_id_0>")]
            text = inputs(tokenizer(f"{sentence} it was <extra_id_0>."))
            log_p = model(**text, decoder_input_ids=torch.tensor([before + tokens])).logits[0].log_softmax(-1)
            at = range(1, 1 + len(tokens))
        else:
            text = tokenizer(f"{sentence} it was {'[MASK]' * len(tokens)}.")
            log_p = model(**inputs(text)).logits[0].log_softmax(-1)
            at = [i for i, id in enumerate(text["input_ids"]) if id == tokenizer.mask_token_id]
    assert len(at) == len(tokens)
    return float(sum(log_p[i, token] for i, token in zip(at, tokens, strict=True))) / len(tokens)


def scores(loaded: Loaded, scorer: Scorer, size: int = 4) -> Tensor:
    with torch.no_grad():
        return torch.cat([scorer.logits(loaded.model, batch) for batch in scorer.batches(REVIEWS, size)]).double()


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_of_a_word_is_its_mean_log_probability_whatever_the_padding(kind):
    loaded = tiny(kind)
    loaded.model.double()
    scorer = scorer_of(loaded, TASK)
    expected = torch.tensor([[by_hand(loaded, row["sentence"], word) for word in WORDS] for row in REVIEWS], dtype=torch.float64)
    assert scorer.whole and expected.std(0).min() > 1e-3  # the answer depends on the text
    tolerance = {"rtol": 1e-6, "atol": 1e-4 if kind == "mamba" else 1e-6}  # Mamba's state is float32
    for size in (4, 1):
        torch.testing.assert_close(scores(loaded, scorer, size), expected, **tolerance)
    scorer.calibrate(loaded.model, REVIEWS)
    torch.testing.assert_close(scores(loaded, scorer), expected - expected.mean(0), **tolerance)


@pytest.mark.parametrize("kind", ["llama", "bart", "roberta"])
def test_whole_words_of_one_token_have_the_softmax_of_first_tokens(kind):
    loaded = tiny(kind)
    first, whole = (
        scorer_of(loaded, replace(TASKS["sst2"], words=("terrible", "great"), scoring=scoring)) for scoring in ("auto", "whole")
    )
    assert whole.whole and not first.whole
    torch.testing.assert_close(scores(loaded, whole).softmax(1), scores(loaded, first).softmax(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["bloom", "t5", "bert"])
def test_auto_scores_first_tokens_where_they_differ(kind):
    loaded = ready(kind)
    auto, first = (scorer_of(loaded, replace(TASKS["sst2"], scoring=scoring)) for scoring in ("auto", "first"))
    assert not auto.whole and torch.equal(scores(loaded, auto), scores(loaded, first))


@pytest.mark.parametrize("kind", ["gpt2", "roberta"])
def test_texts_leave_room_for_the_words_tokens(kind):
    loaded = tiny(kind)
    scorer = scorer_of(loaded, TASK, max_length=10_000)
    longest = max(map(len, scorer.label_tokens))
    assert scorer.max_length == text_positions(loaded.model) - (longest - 1)
    batch = scorer.collate(scorer.encode([{"sentence": "great " * 500, "label": 0}]))
    assert batch["input_ids"].shape[1] == scorer.max_length
    assert scorer.logits(loaded.model, batch).isfinite().all()


@pytest.mark.parametrize(("kind", "method"), [("bloom", "lora"), ("bloom", "prompt"), ("t5", "prompt"), ("t5", "lora"), ("bert", "prompt")])
def test_a_tuned_model_scores_whole_words_whatever_the_padding(kind, method):
    loaded = tiny(kind)
    scorer = scorer_of(loaded, TASK)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make_tunable(method, loaded.model).model
    whole = torch.cat([scorer.logits(model, batch) for batch in scorer.batches(REVIEWS, 4)])
    alone = torch.cat([scorer.logits(model, batch) for batch in scorer.batches(REVIEWS, 1)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["bloom", "bart", "bert"])
def test_the_gram_matrix_is_of_autograds_gradients(kind):
    loaded = tiny(kind)
    model, task = loaded.model.double(), replace(TASK, words=WORDS[:2])
    scorer, space = scorer_of(loaded, task), ParameterSpace.of(model, "layers:0-0 attention")
    found, _ = gram_matrix(model, space, scorer, REVIEWS[:3])
    tensors = [all_names(model)[name] for name in space.names]
    gradients = []
    for example in REVIEWS[:3]:
        for tensor in tensors:
            tensor.requires_grad_()
        (logits,) = scorer.logits(model, scorer.collate(scorer.encode([example])))
        parts = torch.autograd.grad(logits[1] - logits[0], tensors, allow_unused=True, materialize_grads=True)
        gradients.append(torch.cat([part.flatten() for part in parts]))
    jacobian = torch.stack(gradients)
    assert jacobian.norm() > 0
    torch.testing.assert_close(found, jacobian @ jacobian.T, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", ["bloom", "t5", "bert"])
def test_decoded_accuracy_compares_the_whole_word(kind, monkeypatch):
    loaded = tiny(kind)
    scorer = scorer_of(loaded, TASK)
    texts = ["Really great!", "really terrible", "really terrible film about", "fun"]
    monkeypatch.setattr(
        Scorer, "generate", lambda self, model, examples, size=64, report=None: [texts[int(e["sentence"])] for e in examples]
    )
    rows = [{"sentence": str(i), "label": label} for i, label in enumerate((0, 1, 1, 0))]
    assert evaluate(loaded.model, scorer, rows, decode=True)["decoded_accuracy"].value == 0.5


def test_a_masked_model_writes_as_many_tokens_as_the_longest_word():
    loaded = tiny("bert")
    scorer = scorer_of(loaded, TASK)
    longest = max(map(len, scorer.label_tokens))
    text = loaded.tokenizer(f"{REVIEWS[0]['sentence']} it was {'[MASK]' * longest}.")
    with torch.no_grad():
        likeliest = loaded.model(**inputs(text)).logits[0].argmax(-1)
    at = [i for i, id in enumerate(text["input_ids"]) if id == loaded.tokenizer.mask_token_id]
    expected = loaded.tokenizer.decode(likeliest[at], skip_special_tokens=True).strip()
    assert scorer.generate(loaded.model, REVIEWS[:1]) == [expected] and scorer.spelling(1) == WORDS[1]
