"""The embedded ladder: miniature models that were really pretrained, shipped as package data.

One dial, the width, sets a size; heads and depth follow the table below, the tokenizer is the same for all.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apet.corpus import EOS, PAD, VOCABULARY, corpus_files, token_stream, train_tokenizer
from apet.errors import lookup
from apet.files import atomic_folder

if TYPE_CHECKING:
    from apet.pretrain import Stretch

LADDER = Path(__file__).parent / "weights"
TOKENIZER = LADDER / "tokenizer" / "tokenizer.json"

# size -> (width, heads, layers in each of encoder and decoder)
T5_SIZES = {"240k": (40, 2, 2), "790k": (80, 4, 3), "2m": (128, 4, 4), "6m": (224, 7, 4)}

# The largest model's rate fell early to end its long stay near the unigram level, and rose twice more to use what it had
# learnt; the other sizes follow the default schedule.
SCHEDULES: dict[str, tuple[Stretch, ...]] = {
    "6m": (
        *((200, 2e-2, "linear"), (3528, 2e-2, "linear"), (2567, 4.5e-3, "sqrt"), (50, 1e-2, "linear"), (4155, 0.0, "linear")),
        *((100, 1e-2, "linear"), (4400, 1e-2, "linear"), (5000, 0.0, "linear")),
    )
}

# The corpora whose licences allow redistributing weights trained on them, and the attribution they ask for.
SOURCES = {
    "wikipedia_en_2015": "English Wikipedia contributors, extraction of 2015, CC BY-SA 3.0",
    "english_novels_100": "100 English Novels (Computational Stylistics Group), texts in the public domain",
    "eltec_english_novels": "ELTeC-eng, European Literary Text Collection (COST Action CA16204), CC BY 4.0",
    "us_presidential_addresses": "State of the Union and inaugural addresses, public domain",
    "tiny_shakespeare": "Tiny Shakespeare (works of William Shakespeare), public domain",
}


def t5_config(size: str) -> Any:
    """A T5 v1.1 architecture (gated GELU, no dropout) of the ladder's size; embeddings are tied."""
    from transformers import T5Config

    width, heads, layers = lookup(T5_SIZES, size, "size")
    return T5Config(
        vocab_size=VOCABULARY,
        d_model=width,
        d_kv=width // heads,
        d_ff=2 * width,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=PAD,
        eos_token_id=EOS,
        **{"decoder_start_token_id": PAD, "tie_word_embeddings": True},
    )


def ladder_names() -> list[str]:
    """Names of the shipped models, smallest first (`mini-t5-240k`, ...)."""
    return [name for name in map("mini-t5-{}".format, T5_SIZES) if (LADDER / name / "model.safetensors").exists()]


def card(name: str) -> dict[str, Any]:
    """The shipped model's card: sources with licences, tokens, steps, held-out loss and its curve."""
    return json.loads((LADDER / name / "card.json").read_text())


def make(
    family: str, size: str, corpus: Path, sources: list[str], steps: int | None, seed: int, minutes: float, tokenizer: Path | None,
    device: str, out: Path, fresh: bool, dry_run: bool, report: Callable[[str, float, float], None],
) -> dict[str, Any]:  # fmt: skip
    """Pretrain one size from text files and write `out`/mini-t5-SIZE: model.safetensors (fp16), config and card.

    `steps` None: the size's own schedule. `sources` empty: the ladder's own sub-folders of `corpus` where they are there,
    else all of it. Returns a summary; "finished" is false when `minutes` ran out, and the same call goes on.
    """
    lookup({"t5": None}, family, "family")
    lookup(T5_SIZES, size, "size")
    sources = sources or [name for name in SOURCES if (corpus / name).is_dir()]
    train_files, heldout_files = corpus_files(corpus, sources, heldout=False), corpus_files(corpus, _holding(corpus, sources), heldout=True)
    folder = out / f"mini-{family}-{size}"
    from apet.pretrain import SCHEDULE, Recipe, pretrain, shorter

    recipe = Recipe(size, shorter(steps) if steps else SCHEDULES.get(size, SCHEDULE), seed=seed)
    summary = {"name": folder.name, "tokens": recipe.tokens, "steps": recipe.steps, "folder": str(folder)}
    if dry_run:
        return summary | {"train_files": [p.name for p in train_files], "heldout_files": [p.name for p in heldout_files]}
    tokenizer = tokenizer or TOKENIZER
    if not tokenizer.exists():
        report("training the tokenizer", 0, 1)
        train_tokenizer(train_files, tokenizer.parent)
    report("reading the corpus", 0, 1)
    train = token_stream(tokenizer, train_files, out / "cache")
    heldout = token_stream(tokenizer, heldout_files, out / "cache")
    checkpoint = out / f"{folder.name}.checkpoint.safetensors"
    if fresh:
        checkpoint.unlink(missing_ok=True)
    model, curve, finished = pretrain(
        recipe, train, heldout, checkpoint, device, minutes, lambda step, loss: report(f"loss {loss:.2f}", step, recipe.steps)
    )
    last = curve[-1] if curve else {"heldout_loss": math.nan, "stderr": math.nan}
    if finished:
        digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest()
        about = {name: SOURCES.get(name, "not stated") for name in sources} or {corpus.name: "not stated"}
        _export(
            model,
            folder,
            {
                "recipe": asdict(recipe),
                "tokens": recipe.tokens,
                "optimizer": "Adafactor, updates scaled by parameter RMS",
                "sources": about,
                "tokenizer_sha256": digest,
                "heldout_loss": last["heldout_loss"],
                "heldout_stderr": last["stderr"],
                "curve": curve,
            },
        )
    return summary | {"finished": finished, "heldout_loss": last["heldout_loss"], "heldout_stderr": last["stderr"]}


def _holding(corpus: Path, sources: list[str]) -> list[str]:
    """The sources that have a held-out file (all of the corpus where it is not divided)."""
    return [name for name in sources if any((corpus / name).glob("valid*")) or any((corpus / name).glob("test*"))]


def _export(model: Any, folder: Path, about: dict[str, Any]) -> None:
    """model.safetensors (fp16, tied tensors once), config.json and card.json, all or nothing."""
    import torch
    from safetensors.torch import save_file

    parameters = {name: p.detach().cpu().to(torch.float16).contiguous() for name, p in model.named_parameters()}
    total = sum(p.numel() for p in parameters.values())
    with atomic_folder(folder) as temporary:
        save_file(parameters, temporary / "model.safetensors", {"format": "pt"})
        (temporary / "config.json").write_text(model.config.to_json_string())
        (temporary / "card.json").write_text(json.dumps({"name": folder.name, "parameters": total, **about}, indent=1) + "\n")
