"""Texts become the ids that the model was trained to read, even if the texts quote control tokens."""

import pytest
from tiny_cases import with_bos, with_mark_before, wrapped
from transformers import ByT5Tokenizer

from apet.errors import UsageError
from apet.models.ladder import ladder_tokenizer
from apet.scoring.text_tokenizer import TextTokenizer

TEXTS = ["a lovely film", "fun", "a < b > c / [x] __ 7/8 \u215e", "half </ s> of [ MASK ] a <extra_id_ name"]


def ids(tokenizer: TextTokenizer, text: str) -> list[int]:
    return tokenizer.encode([tokenizer.escaped(text)])[0]["input_ids"]


@pytest.mark.parametrize("family", ["t5", "bert", "bloom"])
@pytest.mark.parametrize("name", ["</s>", "<pad>", "<extra_id_0>", "[MASK]", "[SEP]", "[CLS]"])
def test_the_name_of_a_control_token_in_a_text_is_text(family, name):
    tokenizer = TextTokenizer(ladder_tokenizer(family))
    found, plain = ids(tokenizer, f"good {name} bad{name}"), ids(tokenizer, "good bad")
    for control in tokenizer.control:
        assert found.count(control) == plain.count(control)
    assert "".join(tokenizer.pretrained.decode(found, skip_special_tokens=True).lower().split()) == f"good{name}bad{name}".lower()


@pytest.mark.parametrize("family", ["t5", "bert", "bloom"])
def test_other_texts_are_read_as_the_tokenizer_reads_them(family):
    tokenizer = TextTokenizer(ladder_tokenizer(family))
    together = [found["input_ids"] for found in tokenizer.encode([*map(tokenizer.escaped, TEXTS), tokenizer.escaped("one </s> more")])]
    assert together[:-1] == [ids(tokenizer, text) for text in TEXTS] == tokenizer.pretrained(TEXTS)["input_ids"]


def test_a_pair_of_texts_keeps_its_kinds():
    tokenizer = TextTokenizer(ladder_tokenizer("bert"))
    first, second = "a [SEP] film", "the </s> story"
    (found,) = tokenizer.encode([tokenizer.escaped(first)], [tokenizer.escaped(second)])
    assert found["input_ids"].count(tokenizer.pretrained.sep_token_id) == 2
    assert len(found["token_type_ids"]) == len(found["input_ids"])
    end = found["input_ids"].index(tokenizer.pretrained.sep_token_id)
    assert found["token_type_ids"] == [0] * (end + 1) + [1] * (len(found["input_ids"]) - end - 1)


@pytest.mark.parametrize(
    ("tokenizer", "prefix", "suffix"),
    [(ladder_tokenizer("t5"), [], [1]), (ladder_tokenizer("bert"), [3], [4]), (with_bos(), [3], []), (with_mark_before(), [1], [])],
)
def test_what_the_tokenizer_puts_around_a_text_is_known(tokenizer, prefix, suffix):
    reader = TextTokenizer(tokenizer)
    assert (reader.prefix, reader.suffix) == (prefix, suffix)


def test_a_word_has_the_pieces_that_it_has_behind_its_context():
    marked, plain, byte = TextTokenizer(with_mark_before()), TextTokenizer(ladder_tokenizer("bloom")), TextTokenizer(ByT5Tokenizer())
    assert marked.pretrained.tokenize(" great") == ["▁", "▁great"]
    assert marked.pretrained.convert_ids_to_tokens(marked.continuation("a it was", "great")) == ["▁great"]
    assert plain.continuation("a it was", "great") == plain.pretrained("great", add_special_tokens=False)["input_ids"]
    assert byte.continuation("it was", "no") == [3 + ord(letter) for letter in " no"]
    assert plain.continuation("it was", "a </s> b").count(plain.pretrained.eos_token_id) == 0


@pytest.mark.parametrize("tokenizer", [ladder_tokenizer("bloom"), ByT5Tokenizer()], ids=["fast", "slow"])
def test_the_beginning_of_a_text_is_as_long_as_asked(tokenizer):
    tokenizer, text = TextTokenizer(tokenizer), "a lovely film that nobody has seen, wonderful"
    length, cut = tokenizer.cutter(text)
    assert length == len(tokenizer.encode([text], framed=False)[0]["input_ids"]) and cut(length) == text and cut(0) == ""
    for count in range(length + 1):
        assert text.startswith(cut(count)) and count - 1 <= tokenizer.cutter(cut(count))[0] <= count


def test_an_id_without_a_row_is_named_with_both_sizes():
    tokenizer = TextTokenizer(ladder_tokenizer("bert"), rows=4000)
    name = tokenizer.pretrained.convert_ids_to_tokens(4095)
    with pytest.raises(UsageError, match=r"the id \d{4}, but the model's embedding has only 4000 rows"):
        tokenizer.encode([name.replace("▁", " ")])


def test_padding_is_any_id_where_the_tokenizer_has_none():
    backend = ladder_tokenizer("bloom").backend_tokenizer
    assert TextTokenizer(wrapped(backend, unk_token="<unk>")).pad == 0
    assert TextTokenizer(wrapped(backend, unk_token="<unk>", eos_token="</s>")).pad == 1
    assert TextTokenizer(ladder_tokenizer("bloom")).pad == ladder_tokenizer("bloom").pad_token_id
