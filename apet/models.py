"""Names of models -> models: the embedded ladder, a few aliases, any Hugging Face id in the cache, any folder.

Nothing here touches the network: a model that is not on this machine is an error that names the download command.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apet.errors import MissingInput, UsageError, did_you_mean
from apet.ladder import LADDER, T5_SIZES, TOKENIZER, card, ladder_names, t5_config

# alias -> (Hugging Face id, total parameters). "T5" here is T5 v1.1, the paper's; original T5 has no "xl".
ALIASES = {
    "t5-small": ("google/t5-v1_1-small", 76_961_152),
    "t5-base": ("google/t5-v1_1-base", 247_577_856),
    "t5-large": ("google/t5-v1_1-large", 783_150_080),
    "t5-xl": ("google/t5-v1_1-xl", 2_849_757_184),
    "t5-xxl": ("google/t5-v1_1-xxl", 11_135_332_352),
}


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer. `fingerprint` is a sha256 of all weights."""

    name: str
    model: nn.Module
    tokenizer: Any
    parameters: int
    fingerprint: str


def models_table() -> list[dict]:
    """One row a known model: name, parameters (total, tied tensors once), where it comes from, held-out loss."""
    shipped = [
        {"name": name, "parameters": card(name)["parameters"], "source": "shipped", "heldout_loss": card(name)["heldout_loss"]}
        for name in ladder_names()
    ]
    hub = [{"name": name, "parameters": count, "source": hub_id, "heldout_loss": None} for name, (hub_id, count) in ALIASES.items()]
    return shipped + hub


def load_model(name: str, random_init: bool = False, seed: int = 0, device: str = "cpu") -> Loaded:
    """Load `name` in fp32 with attention that can be differentiated twice.

    `random_init` keeps the architecture and draws fresh weights with `seed`. Raises UsageError for a name that is
    in no table, MissingInput for an id that is not on this machine.
    """
    source = _resolve(name)
    config, tokenizer = _config(name, source), _tokenizer(name, source)
    if config.model_type != "t5":
        raise UsageError(f"{name} is a {config.model_type} model: only T5 is supported so far")
    model = _build(config, seed) if random_init else _pretrained(source, config)
    model.to(device).eval()
    count = sum(p.numel() for p in model.parameters())
    return Loaded(name, model, tokenizer, count, fingerprint(model))


def fingerprint(model: nn.Module) -> str:
    """sha256 over names, shapes and bytes of all parameters, tied tensors once."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _resolve(name: str) -> str:
    """A folder or a Hugging Face id."""
    if name in ladder_names() or name in _unshipped():
        return str(LADDER / name)
    if name in ALIASES:
        return ALIASES[name][0]
    if Path(name).is_dir():
        return name
    if "/" in name:
        if name.startswith((".", "/")):
            raise MissingInput(f"no model folder {name}")
        return name
    raise UsageError(
        f"unknown model '{name}' (no ladder model, alias, folder, or id with a slash){did_you_mean(name, [*ladder_names(), *ALIASES])}"
    )


def _unshipped() -> list[str]:
    return [f"mini-t5-{size}" for size in T5_SIZES]


def _config(name: str, source: str) -> Any:
    from transformers import AutoConfig

    if Path(source).parent == LADDER:
        return t5_config(name.removeprefix("mini-t5-"))
    return _local(AutoConfig.from_pretrained, source)


def _tokenizer(name: str, source: str) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if Path(source).parent == LADDER:
        return PreTrainedTokenizerFast(
            tokenizer_file=str(TOKENIZER), eos_token="</s>", pad_token="<pad>", unk_token="<unk>", cls_token="[CLS]",
            sep_token="[SEP]", mask_token="[MASK]",
        )  # fmt: skip
    return _local(AutoTokenizer.from_pretrained, source)


def _build(config: Any, seed: int) -> nn.Module:
    from transformers import AutoModelForSeq2SeqLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager", dtype=torch.float32)


def _pretrained(source: str, config: Any) -> nn.Module:
    from transformers import AutoModelForSeq2SeqLM

    if Path(source).parent == LADDER and not (Path(source) / "model.safetensors").exists():
        raise MissingInput(f"{Path(source).name} is not shipped with weights: use --random-init, or pretrain it")
    return _local(
        AutoModelForSeq2SeqLM.from_pretrained, source, config=config, attn_implementation="eager", dtype=torch.float32,
        use_safetensors=True,
    )  # fmt: skip


def _local(load: Any, source: str, **options: Any) -> Any:
    """Load from disk only; turn whatever the library raises for a missing file into one line with the remedy."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # ours says what is being done
    try:
        return load(source, local_files_only=True, trust_remote_code=False, **options)
    except OSError as error:
        if Path(source).is_dir():
            raise MissingInput(f"the folder {source} does not hold a whole model: {str(error).splitlines()[0]}") from error
        raise MissingInput(f"{source} is not on this machine: download it with 'hf download {source}'") from error
