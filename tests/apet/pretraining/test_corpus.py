"""From text to tokens and windows."""

import numpy as np
import pytest

from apet.errors import MissingInput
from apet.models.ladder import TOKENIZER
from apet.pretraining.corpus import corpus_files, token_stream, train_tokenizer, windows


def test_an_epoch_of_windows_visits_each_once():
    stream = np.arange(1000, dtype=np.uint16)
    seen = np.concatenate([windows(stream, 0, step, 5, 10) for step in range(20)])
    assert np.array_equal(np.sort(seen.ravel()), np.arange(1000))
    assert not np.array_equal(windows(stream, 0, 0, 5, 10), windows(stream, 0, 20, 5, 10))


def test_tokenised_treebank_text_reads_like_running_text():
    from tokenizers import Tokenizer

    encode = Tokenizer.from_file(str(TOKENIZER)).encode
    assert encode("They wo n't sit still , ever .").ids == encode("they won't sit still, ever.").ids
    assert "<extra_id_0>" in "".join(encode("it was <extra_id_0>.").tokens)


def test_a_tokenizer_is_trained_and_a_stream_cached(tmp_path):
    text = "the quick brown fox jumps over the lazy dog, and the dog sleeps. " * 3
    words = [f"{a}{b}{c}" for a in "bcdfg" for b in "aeiou" for c in "lmnrst"]
    (tmp_path / "train.txt").write_text("\n".join([text] * 30 + [" ".join(words)] * 4), encoding="utf-8")
    files = corpus_files(tmp_path, [], heldout=False)
    stream = token_stream(TOKENIZER, files, tmp_path / "cache")
    assert stream.dtype == np.uint16
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert np.array_equal(stream, token_stream(TOKENIZER, files, tmp_path / "cache"))
    train_tokenizer(files, tmp_path / "tokenizer", every=1)
    assert (tmp_path / "tokenizer" / "tokenizer.json").exists()


def test_a_missing_corpus_is_named(tmp_path):
    with pytest.raises(MissingInput, match="no corpus folder"):
        corpus_files(tmp_path / "nowhere", [], heldout=False)
    with pytest.raises(MissingInput, match="no valid"):
        corpus_files(tmp_path, [], heldout=True)
