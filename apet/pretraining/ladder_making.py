"""Make a ladder model from text files, as a folder with weights, configuration and card."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from apet.errors import UsageError
from apet.files import atomic_folder
from apet.models import DEFAULTS, HALF_STEPS, SCHEDULES, SOURCES, TOKENIZER, config_of
from apet.pretraining.corpus import corpus_files, token_stream, train_tokenizer
from apet.pretraining.pretraining_loop import OPTIMIZERS, Recipe, pretrain, schedule


def make_ladder_model(
    family: str, size: str, corpus: Path, sources: list[str], steps: int | None, seed: int, minutes: float, tokenizer: Path | None,
    device: str, out: Path, fresh: bool, dry_run: bool, report: Callable[[str, float, float], None],
) -> dict[str, Any]:  # fmt: skip
    """Pretrain one size from text files and write the folder `out`/mini-FAMILY-SIZE: model.safetensors (fp16), config and card.

    If `steps` is None, the size's own schedule is used, else the default schedule. If `sources` is empty, the corpus consists of the
    ladder's sub-folders of `corpus` that exist, or of the whole folder if none exists. Return a summary. Its "finished" is False if
    `minutes` ran out before the last step; the same call then resumes. With `dry_run` nothing is trained, and the summary lists the files.
    """
    if not minutes > 0:
        raise UsageError(f"minutes = {minutes} must be positive")
    config_of(family, size)
    sources = sources or [name for name in SOURCES if (corpus / name).is_dir()]
    train_files, heldout_files = corpus_files(corpus, sources, heldout=False), corpus_files(corpus, _holding(corpus, sources), heldout=True)
    folder = out / f"mini-{family}-{size}"
    default, peak = DEFAULTS[family]
    size_schedule = SCHEDULES.get((family, size)) if steps is None else None
    recipe = Recipe(
        family, size, size_schedule or schedule(steps or default, peak), seed, HALF_STEPS.get((family, size)) if size_schedule else None
    )
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
                "pretext": recipe.pretext.about,
                "tokens": recipe.tokens,
                "optimizer": OPTIMIZERS[family].__doc__,
                "sources": about,
                "tokenizer_sha256": digest,
                "heldout_loss": last["heldout_loss"],
                "heldout_stderr": last["stderr"],
                "curve": curve,
            },
        )
    return summary | {"finished": finished, "heldout_loss": last["heldout_loss"], "heldout_stderr": last["stderr"]}


def _holding(corpus: Path, sources: list[str]) -> list[str]:
    """Return the sources that have a held-out file (an empty list stands for the whole corpus)."""
    return [name for name in sources if any((corpus / name).glob("valid*")) or any((corpus / name).glob("test*"))]


def _export(model: Any, folder: Path, about: dict[str, Any]) -> None:
    """Write model.safetensors (fp16, tied tensors once), config.json and card.json, either all or none of them."""
    parameters = {name: p.detach().cpu().to(torch.float16).contiguous() for name, p in model.named_parameters()}
    total = sum(p.numel() for p in parameters.values())
    with atomic_folder(folder) as temporary:
        save_file(parameters, temporary / "model.safetensors", {"format": "pt"})
        (temporary / "config.json").write_text(model.config.to_json_string())
        (temporary / "card.json").write_text(json.dumps({"name": folder.name, "parameters": total, **about}, indent=1) + "\n")
