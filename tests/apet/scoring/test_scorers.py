"""Batches and logits of every form of model, compared with inputs built by hand."""

import copy
import json
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scoring_cases import CHATS, MODELS, REVIEWS, WRITING, asked_by_hand, first_pieces, fresh, ready, written_by_hand
from tiny_cases import saved, tiny, with_bos, with_mark_before, wrapped
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, ByT5Tokenizer, EncoderDecoderConfig, EncoderDecoderModel

from apet.errors import UsageError
from apet.methods import make_tunable
from apet.models.loading import Loaded, load_model
from apet.scoring import Scorer, cross_entropy, scorer_of
from apet.scoring.loss import IGNORED
from apet.scoring.scorer import MAX_TARGET
from apet.scoring.scorer_choice import text_positions
from apet.tasks.task_table import TASKS, Task

every_form = pytest.mark.parametrize("name", MODELS)
every_writer = pytest.mark.parametrize("name", WRITING)


def logits(model: nn.Module, scorer: Scorer, examples: list[dict]) -> Tensor:
    with torch.no_grad():
        return torch.cat([scorer.logits(model, batch) for batch in scorer.batches(examples, len(examples))])


# Label words


@every_form
def test_logits_are_the_models_own_at_the_slot_whatever_the_padding(name):
    loaded = ready(name)
    found = logits(loaded.model, scorer_of(loaded, TASKS["sst2"]), REVIEWS)
    by_hand = torch.stack([asked_by_hand(loaded, example["sentence"]) for example in REVIEWS])
    assert by_hand.std(0).min() > 1e-2  # the answer depends on the text
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-4)


@every_form
@pytest.mark.parametrize("task", [task for task in TASKS.values() if task.classes and not task.images], ids=lambda task: task.name)
def test_every_task_is_scored_by_the_first_pieces_of_its_words(name, task):
    loaded = replace(ready(name), model=ready(name).model)
    scorer = scorer_of(loaded, task)
    wanted = list(range(task.classes)) if name == "classifier" else first_pieces(loaded, task.words)
    assert scorer.label_ids.tolist() == wanted
    batch = scorer.collate(scorer.encode([dict.fromkeys(task.fields, "some words") | {"label": task.classes - 1}]))
    assert batch["labels"].tolist() == [task.classes - 1]


@pytest.mark.parametrize("name", ["t5", "bloom", "gpt2", "bert"])
def test_calibration_takes_the_mean_logits_off_however_often(name):
    loaded = ready(name)
    plain, calibrated = (scorer_of(loaded, TASKS["sst2"]) for _ in range(2))
    calibrated.calibrate(loaded.model, REVIEWS)
    calibrated.calibrate(loaded.model, REVIEWS)
    raw, less = (logits(loaded.model, scorer, REVIEWS) for scorer in (plain, calibrated))
    torch.testing.assert_close(less.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(raw - less, raw.mean(0).expand_as(raw), atol=1e-5, rtol=0)


def test_calibration_leaves_a_head_and_a_task_of_texts_alone():
    for name, task, examples in (("classifier", "sst2", REVIEWS), ("t5", "samsum", CHATS)):
        scorer = scorer_of(ready(name), TASKS[task])
        scorer.calibrate(ready(name).model, examples)
        assert not scorer.prior.any()


@pytest.mark.parametrize("name", ["t5", "bloom", "bert"])
def test_label_words_that_are_alike_are_refused(name):
    for words, scoring, reason in (
        (("great", "great"), "auto", "must have different tokens"),
        (
            ("great", "great film"),
            "first",
            "do not differ in their first token under this tokenizer: choose other label words, or",
        ),
    ):
        with pytest.raises(UsageError, match=reason):
            scorer_of(ready(name), replace(TASKS["sst2"], words=words, scoring=scoring))


def test_a_text_with_a_mask_or_a_null_of_its_own_is_asked_at_the_slot():
    masked, causal = scorer_of(ready("bert"), TASKS["sst2"]), scorer_of(ready("bloom"), TASKS["sst2"])
    (batch,) = masked.batches([{"sentence": "a [MASK] film", "label": 0}, REVIEWS[0]], 2)
    pieces = masked.tokenizer.pretrained.convert_ids_to_tokens(batch["input_ids"][0, int(batch["slot"][0]) - 2 :])
    assert pieces[:2] == masked.tokenizer.pretrained.tokenize("it was") and pieces[2] == "[MASK]" and "[MASK]" not in pieces[3:]
    (item,) = causal.encode([{"sentence": "a \0 film", "label": 0}])
    assert item["input_ids"] == causal.tokenizer.pretrained("a \0 film it was", add_special_tokens=False)["input_ids"]


# Batches


@every_form
def test_items_hold_all_that_a_batch_needs(name):
    scorer = scorer_of(ready(name), TASKS["sst2"])
    items = scorer.encode(REVIEWS)
    whole, picked = scorer.collate(items), scorer.collate([items[3], items[0]])
    assert whole["labels"].tolist() == [0, 1, 0, 1] and picked["labels"].tolist() == [1, 0]
    for row, item in zip(picked["input_ids"], (items[3], items[0]), strict=True):
        assert [i for i in row.tolist() if i != scorer.tokenizer.pretrained.pad_token_id] == item["input_ids"]
    assert picked["attention_mask"].sum(1).tolist() == [len(items[3]["input_ids"]), len(items[0]["input_ids"])]
    assert all(scorer.weight(item) == 1.0 for item in items)


def test_a_head_reads_two_fields_as_a_pair_and_three_not_at_all():
    loaded = ready("classifier")
    scorer = scorer_of(loaded, TASKS["mrpc"])
    (item,) = scorer.encode([{"sentence1": "a film", "sentence2": "the story", "label": 0}])
    assert item["input_ids"] == loaded.tokenizer("a film", "the story")["input_ids"]
    assert len(item["token_type_ids"]) == len(item["input_ids"])
    three = Task("three", "{a} {b} {c} {slot}", ("a", "b", "c"), ("no", "yes"))
    with pytest.raises(UsageError, match="three has 3 fields, but a classification head reads at most two"):
        scorer_of(loaded, three).encode([{"a": "x", "b": "y", "c": "z", "label": 0}])


@every_form
@pytest.mark.parametrize("length", [24, 64])
def test_a_long_field_loses_its_end_and_the_question_stays(name, length):
    scorer = scorer_of(ready(name), TASKS["sst2"], length)
    long, short = (scorer.encode([{"sentence": text, "label": 1}])[0]["input_ids"] for text in ("first " + "word " * 300, "first word"))
    question = short[-1:] if name == "classifier" else short[len(scorer.tokenizer.pretrained.tokenize("first word")) :]
    assert length - 2 <= len(long) <= length
    assert long[:2] == short[:2] and long[-len(question) :] == question
    assert scorer.tokenizer.pretrained.decode(long, skip_special_tokens=True).count("word") == length - len(short) + 1


@every_form
def test_two_long_fields_are_cut_to_the_same_length_and_a_short_one_is_not_cut(name):
    scorer = scorer_of(ready(name), TASKS["mrpc"], 64)
    long, less_long, short = "red " * 300, "white " * 150, "white white"
    for second in (less_long, short):
        (item,) = scorer.encode([{"sentence1": long, "sentence2": second, "label": 0}])
        kept = scorer.tokenizer.pretrained.decode(item["input_ids"], skip_special_tokens=True).split()
        assert 62 <= len(item["input_ids"]) <= 64
        if second is short:
            assert kept.count("white") == 2
        else:
            pieces = {word: len(scorer.tokenizer.pretrained(word, add_special_tokens=False)["input_ids"]) for word in ("red", "white")}
            red, white = (kept.count(word) * pieces[word] for word in pieces)
            assert abs(red - white) <= 2 and red > 15


@every_form
def test_a_document_of_a_hundred_thousand_words_is_cut_in_seconds(name):
    scorer = scorer_of(ready(name), TASKS["imdb"])
    document = " ".join(f"word{i % 97} is" for i in range(50_000))
    start = time.process_time()  # does not include the work of other programs
    (item,) = scorer.encode([{"text": document, "label": 0}])
    assert time.process_time() - start < 2
    assert 126 <= len(item["input_ids"]) <= 128


@every_form
def test_a_text_whose_last_character_is_many_pieces_is_cut_before_it(name):
    """The tokenizer decomposes compatibility characters: seven eighths become a 7, a slash and an 8."""
    scorer = scorer_of(ready(name), TASKS["sst2"], 64)
    for words in range(30, 60):
        (item,) = scorer.encode([{"sentence": "red " * words + "\u215e" * 9, "label": 0}])
        assert len(item["input_ids"]) <= 64


@every_form
def test_a_length_below_the_templates_own_is_one_line(name):
    scorer = scorer_of(ready(name), TASKS["sst2"], 1)
    with pytest.raises(UsageError, match="^max_length = 1 is too short for the template of sst2: use a larger max_length$"):
        scorer.encode([{"sentence": "a long enough text", "label": 0}])


# Texts


@every_writer
def test_a_text_ends_in_the_end_of_text_the_first_of_several_is_learnt_and_a_long_one_is_cut(name):
    loaded = ready(name)
    scorer = scorer_of(loaded, TASKS["nq_open"])
    answers = [["Paris", "the city of Paris"], "word " * 300]
    one, long = scorer.encode([{"question": "where", "answer": answer} for answer in answers])
    assert one["target"] == [*loaded.tokenizer("Paris", add_special_tokens=False)["input_ids"], loaded.tokenizer.eos_token_id]
    assert len(long["target"]) == MAX_TARGET and long["target"][-1] == loaded.tokenizer.eos_token_id
    assert scorer.weight(one) == len(one["target"])


@every_writer
def test_the_weight_of_a_batch_is_that_of_its_items(name):
    scorer = scorer_of(ready(name), TASKS["samsum"])
    items = scorer.encode(CHATS)
    batch = scorer.collate(items)
    with torch.no_grad():
        _, weight = cross_entropy(scorer.logits(ready(name).model, batch), batch)
    assert weight == sum(map(scorer.weight, items)) == sum(len(item["target"]) for item in items)


def test_cross_entropy_is_the_sum_over_what_is_not_padding():
    numbers = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 4, 5, generator=numbers, dtype=torch.float64)
    labels = torch.tensor([[1, 2, 3, 4], [0, 1, IGNORED, IGNORED], [IGNORED, 4, 0, IGNORED]])
    found, weight = cross_entropy(scores, {"labels": labels})
    by_hand = sum(
        float(scores[b, t].exp().sum().log() - scores[b, t, labels[b, t]]) for b in range(3) for t in range(4) if labels[b, t] != IGNORED
    )
    assert found.dtype == torch.float64 and found.item() == pytest.approx(by_hand, rel=1e-12) and weight == 8.0
    classes, weight = cross_entropy(scores[:, 0], {"labels": labels[:, 0].clamp(min=0)})
    assert classes.item() == pytest.approx(F.cross_entropy(scores[:, 0], labels[:, 0].clamp(min=0)).item() * 3) and weight == 3.0
    assert cross_entropy(scores.bfloat16(), {"labels": labels})[0].dtype == torch.float32


def test_the_loss_of_an_encoder_decoder_is_its_own_less_that_of_the_sentinel():
    loaded = ready("t5")
    scorer, sentinel = scorer_of(loaded, TASKS["samsum"]), loaded.tokenizer.convert_tokens_to_ids("<extra_id_0>")
    (batch,) = scorer.batches(CHATS, 4)
    expected = 0.0
    with torch.no_grad():
        for chat in CHATS:
            ids = torch.tensor([loaded.tokenizer(f"{chat['dialogue']} in short: <extra_id_0>")["input_ids"]])
            answer = loaded.tokenizer(chat["summary"], add_special_tokens=False)["input_ids"] + [1]
            whole, first = torch.tensor([[sentinel, *answer]]), torch.tensor([[sentinel]])
            expected += (len(answer) + 1) * loaded.model(ids, labels=whole).loss.item() - loaded.model(ids, labels=first).loss.item()
        found, _ = cross_entropy(scorer.logits(loaded.model, batch), batch)
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["bloom", "gpt2"])
def test_the_loss_of_a_causal_model_is_its_own_over_the_answer(name):
    loaded = ready(name)
    scorer = scorer_of(loaded, TASKS["samsum"])
    (batch,) = scorer.batches(CHATS, 4)
    expected = 0.0
    with torch.no_grad():
        for chat in CHATS:
            text = loaded.tokenizer(f"{chat['dialogue']} in short:", add_special_tokens=False)["input_ids"]
            answer = loaded.tokenizer(chat["summary"], add_special_tokens=False)["input_ids"] + [1]
            labels = torch.tensor([[IGNORED] * len(text) + answer])
            expected += len(answer) * loaded.model(torch.tensor([text + answer]), labels=labels).loss.item()
        found, _ = cross_entropy(scorer.logits(loaded.model, batch), batch)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def short_answers(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("apet.scoring.scorer.MAX_TARGET", 12)
    return 12


@every_writer
def test_generation_is_greedy_for_texts_of_unequal_length(name, short_answers):
    loaded = ready(name)
    found = scorer_of(loaded, TASKS["samsum"]).generate(loaded.model, CHATS, size=3)
    by_hand = [written_by_hand(loaded, f"{chat['dialogue']} in short:", short_answers) for chat in CHATS]
    assert len(set(map(tuple, by_hand))) > 1
    assert found == [loaded.tokenizer.decode(pieces, skip_special_tokens=True).strip() for pieces in by_hand]


@every_writer
def test_generation_stops_at_the_end_of_text(name, short_answers):
    loaded = replace(ready(name), tokenizer=copy.deepcopy(ready(name).tokenizer))
    end = written_by_hand(loaded, f"{CHATS[0]['dialogue']} in short:", 3)[-1]
    loaded.tokenizer.eos_token = loaded.tokenizer.convert_ids_to_tokens(end)
    scorer = scorer_of(loaded, TASKS["samsum"])
    found = scorer.generate(loaded.model, CHATS)
    by_hand = [written_by_hand(loaded, f"{chat['dialogue']} in short:", short_answers, end=end) for chat in CHATS]
    assert by_hand[0][-1] == end and len(by_hand[0]) <= 3
    assert found == [loaded.tokenizer.decode(pieces, skip_special_tokens=True).strip() for pieces in by_hand]


def test_a_masked_model_writes_the_one_likeliest_piece():
    loaded = ready("bert")
    scorer = scorer_of(loaded, TASKS["sst2"])
    ids = loaded.tokenizer(f"{REVIEWS[0]['sentence']} it was [MASK].")["input_ids"]
    with torch.no_grad():
        best = loaded.model(torch.tensor([ids])).logits[0, ids.index(loaded.tokenizer.mask_token_id)].argmax()
    assert scorer.generate(loaded.model, REVIEWS)[0] == loaded.tokenizer.decode([int(best)], skip_special_tokens=True).strip()


def test_what_cannot_write_is_not_asked_for_texts():
    for name in ("bert", "classifier"):
        with pytest.raises(UsageError, match="samsum asks for text, which mini-bert-120k cannot generate"):
            scorer_of(ready(name), TASKS["samsum"])
    with pytest.raises(UsageError, match="a classification head cannot generate text"):
        scorer_of(ready("classifier"), TASKS["sst2"]).generate(ready("classifier").model, REVIEWS)


# Prompts and prefixes


def with_virtual_tokens(name: str, method: str) -> tuple[Loaded, nn.Module]:
    loaded = fresh(name)
    mounted = make_tunable(method, loaded.model)
    numbers = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in mounted.trainable.values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=numbers))
    return loaded, mounted.model.eval()


@every_form
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_logits_behind_virtual_tokens_do_not_depend_on_the_padding(name, method):
    loaded, model = with_virtual_tokens(name, method)
    found = logits(model, scorer_of(ready(name), TASKS["sst2"]), REVIEWS)
    by_hand = torch.stack([asked_by_hand(loaded, example["sentence"], model) for example in REVIEWS])
    assert by_hand.std(0).min() > 1e-5
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-4)


@every_writer
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_generation_behind_virtual_tokens_is_greedy(name, method, short_answers):
    loaded, model = with_virtual_tokens(name, method)
    found = scorer_of(loaded, TASKS["samsum"]).generate(model, CHATS)
    by_hand = [written_by_hand(loaded, f"{chat['dialogue']} in short:", short_answers, model) for chat in CHATS]
    assert found == [loaded.tokenizer.decode(pieces, skip_special_tokens=True).strip() for pieces in by_hand]


def test_a_classifier_behind_a_prompt_still_reads_its_first_own_token():
    loaded, model = with_virtual_tokens("classifier", "prompt")
    bert = loaded.model.bert
    embedded = bert.embeddings.word_embeddings(torch.tensor([loaded.tokenizer("a lovely film")["input_ids"]]))
    with torch.no_grad():
        whole = torch.cat([model.get_prompt(1), embedded], dim=1)
        states = bert(inputs_embeds=whole).last_hidden_state
        expected = loaded.model.classifier(torch.tanh(bert.pooler.dense(states[:, 100])))
    torch.testing.assert_close(logits(model, scorer_of(ready("classifier"), TASKS["sst2"]), REVIEWS[:1]), expected, rtol=1e-5, atol=1e-5)


def masked_with(positions: int) -> Loaded:
    config = BertConfig(vocab_size=4096, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=positions)
    return replace(ready("bert"), name="tiny", model=BertForMaskedLM(config).eval())


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_texts_leave_room_for_virtual_tokens_and_for_an_answer(method):
    long = "word " * 300
    loaded = masked_with(128)
    scorer = scorer_of(loaded, TASKS["sst2"], reserve=100)
    assert scorer.max_length == 28
    assert logits(make_tunable(method, loaded.model).model, scorer, [{"sentence": long, "label": 0}]).isfinite().all()
    loaded = fresh("gpt2", positions=200)
    assert scorer_of(loaded, TASKS["sst2"], max_length=500).max_length == 200
    scorer = scorer_of(loaded, TASKS["samsum"], reserve=100)
    assert scorer.max_length == 200 - 100 - MAX_TARGET
    model = make_tunable(method, loaded.model).model
    chats = [{"dialogue": long, "summary": long}]
    assert logits(model, scorer, chats).isfinite().all() and scorer.generate(model, chats)


def test_no_room_for_a_text_is_one_line():
    with pytest.raises(UsageError, match="^tiny has 100 positions, but virtual tokens and answer take 100, which leaves none"):
        scorer_of(masked_with(100), TASKS["sst2"], reserve=100)
    assert scorer_of(masked_with(101), TASKS["sst2"], reserve=100).max_length == 1
    for name in ("t5", "bloom"):  # relative positions have no limit
        assert scorer_of(ready(name), TASKS["samsum"], max_length=5000, reserve=100).max_length == 5000


def test_the_tokenizers_own_limit_holds_where_the_table_of_positions_is_longer():
    loaded = masked_with(130)
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.model_max_length = 128
    assert scorer_of(replace(loaded, tokenizer=tokenizer), TASKS["sst2"], max_length=500).max_length == 128


# Other architectures


@pytest.mark.parametrize("task", ["sst2", "nq_open"])
def test_a_causal_model_gets_the_bos_that_its_tokenizer_adds(task, tmp_path):
    loaded = load_model(str(saved("llama", tmp_path, with_bos(), bos_token_id=3)))
    scorer = scorer_of(loaded, TASKS[task])
    (item,) = scorer.encode([{"sentence": "good film", "label": 0} if task == "sst2" else {"question": "where", "answer": "here"}])
    text = "good film it was" if task == "sst2" else "question: where? answer:"
    assert item["input_ids"] == loaded.tokenizer(text)["input_ids"] and item["input_ids"][0] == 3


def test_label_words_are_the_pieces_that_they_have_behind_the_template(tmp_path):
    loaded = load_model(str(saved("llama", tmp_path, with_mark_before(), bos_token_id=1, eos_token_id=2)))
    scorer = scorer_of(loaded, TASKS["sst2"])
    assert loaded.tokenizer.convert_ids_to_tokens(scorer.label_ids) == ["▁terrible", "▁great"] and scorer.stem == []
    (item,) = scorer.encode([{"sentence": "a good film", "label": 1}])
    assert loaded.tokenizer.convert_ids_to_tokens(item["input_ids"]) == ["<s>", "▁a", "▁good", "▁film", "▁it", "▁was"]


def test_what_all_label_words_begin_with_is_given_and_bytes_are_pieces(tmp_path):
    loaded = load_model(str(saved("t5", tmp_path, ByT5Tokenizer(), vocab_size=384)))
    scorer = scorer_of(loaded, TASKS["sst2"], 60)
    byte = [3 + ord(letter) for letter in " tg"]
    assert (scorer.stem, scorer.label_ids.tolist(), scorer.prefix) == (byte[:1], byte[1:], [0, 259, byte[0]])
    (batch,) = scorer.batches([{"sentence": "a film " * 30, "label": 1}], 1)
    assert batch["input_ids"].shape == (1, 60)
    with torch.no_grad():
        asked = loaded.model(batch["input_ids"], decoder_input_ids=torch.tensor([scorer.prefix])).logits[:, -1, byte[1:]]
        torch.testing.assert_close(scorer.logits(loaded.model, batch), asked)
    assert all(text.isprintable() for text in scorer.generate(loaded.model, REVIEWS[:1]))


def test_a_label_word_that_the_tokenizer_does_not_know_is_refused():
    with pytest.raises(UsageError, match="^the tokenizer does not know the label word 'ы': choose another label word or model$"):
        scorer_of(ready("bloom"), replace(TASKS["sst2"], words=("great", "ы")))


READING = [("fnet", None, "sst2"), ("fnet", 2, "sst2"), ("rwkv", None, "sst2"), ("rwkv", None, "nq_open")]
QUESTIONS = [{"question": "where " * n, "answer": "here " * m} for n, m in ((1, 2), (4, 1), (4, 1), (1, 2))]


@pytest.mark.parametrize(("kind", "classes", "task"), READING)
def test_a_model_that_reads_padding_gets_texts_of_one_length(kind, classes, task):
    loaded, examples = tiny(kind, classes), REVIEWS if task == "sst2" else QUESTIONS
    scorer = scorer_of(loaded, TASKS[task])
    assert scorer.reads_padding

    def total(size: int) -> tuple[float, float]:
        with torch.no_grad():
            parts = [cross_entropy(scorer.logits(loaded.model, batch), batch) for batch in scorer.batches(examples, size)]
        return sum(float(loss) for loss, _ in parts), sum(weight for _, weight in parts)

    assert total(4) == (pytest.approx(total(1)[0]), total(1)[1])
    if classes is None:
        together = scorer.generate(loaded.model, examples[:2], 2)
        assert together == [scorer.generate(loaded.model, [each])[0] for each in examples[:2]]


@pytest.mark.parametrize("kind", ["llama", "opt", "roberta", "mpnet", "bart", "t5"])
def test_other_models_do_not(kind):
    loaded = tiny(kind)
    scorer = scorer_of(loaded, TASKS["sst2"])
    assert not scorer.reads_padding
    with torch.no_grad():
        alone = torch.cat([scorer.logits(loaded.model, batch) for batch in scorer.batches(REVIEWS, 1)])
    torch.testing.assert_close(logits(loaded.model, scorer, REVIEWS), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "most"), [("roberta", 65), ("xlm-roberta", 65), ("mpnet", 64), ("opt", 64), ("bart", 128), ("bert", 512), ("t5", None)]
)
def test_the_longest_text_that_a_table_of_positions_takes_is_known(kind, most):
    loaded = tiny(kind)
    assert text_positions(loaded.model) == most
    scorer = scorer_of(loaded, TASKS["sst2"], 400)
    assert scorer.max_length == min(most or 400, 400)
    assert logits(loaded.model, scorer, [{"sentence": "red " * 500, "label": 0}]).isfinite().all()  # the last position is used
    if most and most < 400:
        longer = torch.full((1, most + 1), 9)
        with pytest.raises((IndexError, RuntimeError)):
            loaded.model(longer, **({"decoder_input_ids": longer} if kind == "bart" else {}))


def test_decoding_is_greedy_whatever_defaults_lie_beside_the_checkpoint(tmp_path):
    for kind, task, example in (("llama", "samsum", CHATS[1]), ("bart", "samsum", CHATS[1])):
        folder = saved(kind, tmp_path / kind)
        plain = load_model(str(folder))
        written = scorer_of(plain, TASKS[task]).generate(plain.model, [example])
        defaults = {"num_beams": 3, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_length": 20, "forced_bos_token_id": 9,
                    "bad_words_ids": [[7]], "do_sample": True, "temperature": 3.0}  # fmt: skip
        (folder / "generation_config.json").write_text(json.dumps(defaults))
        other = load_model(str(folder))
        assert scorer_of(other, TASKS[task]).generate(other.model, [example]) == written
        assert other.model.generation_config.num_beams == 3  # an export keeps the defaults


def test_a_pair_of_berts_begins_with_cls_and_one_without_any_start_is_refused():
    sizes = {"vocab_size": 4096, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(**sizes), BertConfig(**sizes))
    loaded = replace(ready("bert"), name="pair", model=EncoderDecoderModel(config).eval(), form="encoder-decoder")
    scorer = scorer_of(loaded, TASKS["sst2"])
    assert scorer.prefix[0] == loaded.tokenizer.cls_token_id
    assert logits(loaded.model, scorer, REVIEWS).isfinite().all() and scorer.generate(loaded.model, REVIEWS)
    with pytest.raises(UsageError, match="^the config of pair does not name the decoder's first token: set decoder_start_token_id in"):
        scorer_of(replace(loaded, tokenizer=wrapped(loaded.tokenizer.backend_tokenizer, unk_token="<unk>")), TASKS["samsum"])


def test_the_ladders_bert_tells_the_texts_of_a_pair_apart_as_in_pretraining():
    scorer = scorer_of(ready("classifier"), TASKS["mrpc"])
    (item,) = scorer.encode([{"sentence1": "a film", "sentence2": "the story", "label": 0}])
    assert item["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
