"""Turn plain text into a tokenizer, a stream of token ids, and batches of windows.

Every batch is a pure function of (stream, seed, step), so a resumed pretraining run sees the same batches as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from apet.errors import MissingInput
from apet.files import atomic_path
from apet.models import EOS, SPECIAL_TOKENS, VOCABULARY
from apet.random_numbers import generator


def corpus_files(folder: Path, sources: list[str], heldout: bool) -> list[Path]:
    """Return the text files (.txt, .txt.xz) in the sub-folders `sources` of `folder` (none: in the whole folder).

    Files named `valid*` or `test*` are held out: they are returned with `heldout` only. Raises MissingInput if there are no such files.
    """
    roots = [folder / name for name in sources] or [folder]
    for root in roots:
        if not root.is_dir():
            raise MissingInput(f"no corpus folder {root}: check the path and the names of the sources")
    files = [p for root in roots for p in sorted(root.rglob("*.txt*")) if p.name.endswith((".txt", ".txt.xz"))]
    chosen = [p for p in files if p.name.startswith(("valid", "test")) == heldout]
    if not chosen:
        wanted = "valid*.txt or test*.txt file (held-out text)" if heldout else ".txt or .txt.xz file"
        raise MissingInput(f"no {wanted} in {folder}: add one")
    return chosen


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, .txt or .txt.xz, without leading and trailing spaces."""
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        yield from (line.strip() for line in lines)


def train_tokenizer(files: list[Path], out: Path, every: int = 8) -> None:
    """Train the ladder's Unigram tokenizer on every `every`-th line of `files`, and write `tokenizer.json` to the folder `out`.

    Text is lower-cased, stripped of accents and detokenised ("wo n't ." -> "won't."). Corpora in Penn Treebank style (SST-2, MR) and
    running text thus share their tokens, which matters for a vocabulary of only 4,096 tokens.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.Unigram())
    normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"``|''|[\u201c\u201d]"), '"'),
            normalizers.Replace(Regex(r"[\u2018\u2019`]"), "'"),
            normalizers.Replace(Regex(r"\s+(?=[.,;:!?)]|n't\b|'(s|re|ll|ve|d|m)\b)"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
        ]
    )
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True)])
    tokenizer.decoder = decoders.Metaspace()
    specials = [AddedToken(token, lstrip=True, special=True) for token in SPECIAL_TOKENS]
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=specials, unk_token="<unk>", show_progress=False, max_piece_length=14
    )
    lines = (line for path in files for i, line in enumerate(read_lines(path)) if i % every == 0)
    normal = (normalizer.normalize_str(line) for line in lines)
    # A Unigram vocabulary keeps every character of its training text. Rare scripts would take a third of the vocabulary.
    tokenizer.train_from_iterator((line for line in normal if line.isascii()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", EOS)])
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "tokenizer.json") as path:
        tokenizer.save(str(path), pretty=False)


def token_stream(tokenizer_file: Path, files: list[Path], cache: Path) -> np.ndarray:
    """Return the token ids of all `files` as one uint16 array (tokens,), with </s> between documents.

    The array is cached in the folder `cache`, with a hash of the tokenizer and of the files' names and sizes in its name.
    """
    from tokenizers import Tokenizer

    names = json.dumps([(p.name, p.stat().st_size) for p in files])
    key = hashlib.sha256(tokenizer_file.read_bytes() + names.encode()).hexdigest()[:16]
    target = cache / f"tokens-{key}.npy"
    if not target.exists():
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        parts = [_encode(tokenizer, path) for path in files]
        cache.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as path, open(path, "wb") as out:
            np.save(out, np.concatenate(parts))
    return np.load(target, mmap_mode="r")


def _encode(tokenizer, path: Path, chunk: int = 20_000) -> np.ndarray:
    ids: list[int] = []
    lines = list(read_lines(path))
    for start in range(0, len(lines), chunk):
        for encoding in tokenizer.encode_batch_fast(lines[start : start + chunk], add_special_tokens=False):
            ids.extend(encoding.ids or [EOS])  # an empty line ends a document
    return np.array(ids, dtype=np.uint16)


def windows(stream: np.ndarray, seed: int, step: int, batch: int, length: int) -> np.ndarray:
    """Return batch number `step`, int64 (batch, length): windows of `length` ids, drawn without replacement within an epoch.

    Raises ValueError if the stream is shorter than one batch.
    """
    count = len(stream) // length
    per_epoch = count // batch
    if per_epoch == 0:
        raise ValueError(f"the corpus has only {len(stream)} tokens, but a batch needs {batch} x {length}: add text to the corpus")
    epoch, index = divmod(step, per_epoch)
    order = generator(seed, epoch).permutation(count)
    chosen = order[index * batch : (index + 1) * batch]
    return np.stack([stream[i * length : (i + 1) * length] for i in chosen]).astype(np.int64)
