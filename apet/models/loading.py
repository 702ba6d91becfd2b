"""Names of models -> models: the embedded ladder, aliases (`apet.models.aliases`), any Hugging Face id in the cache, any folder.

Nothing here touches the network, reads weights other than safetensors or runs code that comes with a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apet.errors import MissingInput, UsageError, lookup
from apet.models.aliases import ALIASES, count
from apet.models.ladder import LADDER, attend_nearby, card, config_of, ladder_names, ladder_tokenizer
from apet.models.locations import Place, find
from apet.models.mnist_nets import NETS, draw
from apet.subspaces import tensor_roles

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = ("eager", "sdpa")
VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken")
FOREIGN = re.compile(r"\.(lora_|ia3_|adapters?[._]|prompt_|prefix_)")  # parameters of a method that was not merged into its model

# form -> (transformers' Auto class, its table of model types)
FORMS = {
    "encoder-decoder": ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
    "masked": ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
    "head": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"),
    "causal": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
}


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer. Parameters are counted with tied tensors once, the second time without token embeddings and output head.

    `fingerprint` is a sha256 of all weights, empty where there are shapes only. `form` is one of FORMS or "image": what it computes.
    """

    name: str
    model: nn.Module
    tokenizer: Any
    parameters: int
    without_embeddings: int
    fingerprint: str
    form: str


def models_table() -> list[dict[str, Any]]:
    """One row a known model, the shipped ones first; BERT is counted as a masked language model, layers of T5 in each of its halves."""
    return [*map(_shipped, ladder_names()), *map(_alias_row, ALIASES), *map(_net_row, NETS)]


def _alias_row(name: str) -> dict[str, Any]:
    alias = ALIASES[name]
    return _row(name, alias.config) | {"licence": alias.licence, "source": alias.hub_id, "heldout_loss": None}


def _net_row(name: str) -> dict[str, Any]:
    total = sum(p.numel() for p in draw(name, 0, "meta").parameters())
    row = {"name": name, "family": "net", "parameters": total, "without_embeddings": total, "layers": None}
    return row | {"licence": None, "source": "drawn at random", "heldout_loss": None}


def _shipped(name: str) -> dict[str, Any]:
    config = json.loads((LADDER / name / "config.json").read_text())
    return _row(name, config) | {"licence": "CC BY-SA 3.0", "source": "shipped", "heldout_loss": card(name)["heldout_loss"]}


def _row(name: str, config: dict[str, Any]) -> dict[str, Any]:
    known = count(config)
    family = config["model_type"]
    return {"name": name, "family": family, "parameters": known.total, "without_embeddings": known.blocks, "layers": known.layers}


def load_model(
    name: str, random_init: bool = False, seed: int = 0, device: str = "cpu", *, dtype: str = "float32", attention: str = "eager",
    classes: int | None = None, shapes_only: bool = False,
) -> Loaded:  # fmt: skip
    """Load `name` in evaluation mode: as the encoder-decoder, masked or causal language model that it is.

    `classes` C >= 2 puts a classification head on a masked language model in place of its own (form "head"); the others are
    as they were. What a checkpoint lacks of that head is drawn by its name alone. `random_init` keeps the architecture and
    draws all weights with `seed`; an alias then needs nothing on this machine. `shapes_only` makes no weights at all (meta
    device). `attention` "eager" can be differentiated twice, "sdpa" is faster and cannot. `dtype` is that of the weights (of a
    float16 checkpoint of T5 transformers keeps the last feed-forward projections in float32).

    A network for images (`apet.models.mnist_nets`) has no weights but drawn ones, and no tokenizer.

    Raises UsageError for a name that is in no table, for a model of another kind and for wrong options, MissingInput for a
    model that is not on this machine or not whole.
    """
    lookup(DTYPES, dtype, "dtype")
    lookup(dict.fromkeys(ATTENTION), attention, "attention")
    if classes is not None and classes < 2:
        raise UsageError(f"{classes} classes: a classification head has 2 or more")
    if name in NETS:
        return _net(name, random_init or shapes_only, seed, device, dtype, shapes_only)
    place = find(name)
    config, drawn = _config(name, place, random_init or shapes_only), random_init or shapes_only
    form = _form(name, config, classes, attention)
    if form == "head":
        config.num_labels = classes
    if drawn:
        model = _drawn(config, form, attention, seed, "meta" if shapes_only else "cpu").to(DTYPES[dtype])
        if place.on_ladder and config.model_type == "bert" and not shapes_only:
            attend_nearby(model)  # the twin is what pretraining started from
    else:
        model = _pretrained(place, config, form, attention, DTYPES[dtype])
    tokenizer = _tokenizer(place, config, drawn)
    _differentiable(model)
    model.eval()
    total = sum(p.numel() for p in model.parameters())
    tables = sum(model.get_parameter(key).numel() for key, roles in tensor_roles(model).items() if "token-tables" in roles)
    if not shapes_only:
        model.to(device)
    return Loaded(name, model, tokenizer, total, total - tables, "" if shapes_only else fingerprint(model), form)


def _net(name: str, drawn: bool, seed: int, device: str, dtype: str, shapes_only: bool) -> Loaded:
    if not drawn:
        raise UsageError(f"{name} has no trained weights: use --random-init")
    model = draw(name, seed, "meta" if shapes_only else "cpu").to(DTYPES[dtype]).eval()
    if not shapes_only:
        model.to(device)
    total = sum(p.numel() for p in model.parameters())
    return Loaded(name, model, None, total, total, "" if shapes_only else fingerprint(model), "image")


def fingerprint(model: nn.Module) -> str:
    """sha256 over names, shapes and bytes of all parameters, tied tensors once."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _config(name: str, place: Place, drawn: bool) -> Any:
    from transformers import AutoConfig

    if place.on_ladder:
        _, family, size = name.split("-")
        return config_of(family, size)
    known = {alias.hub_id: alias.config for alias in ALIASES.values()}.get(place.source)
    if drawn and known:
        return AutoConfig.for_model(**known)
    folder = place.require(weights=not drawn)
    with _reading(f"config.json of {place.source}"):
        if known and "model_type" not in json.loads((folder / "config.json").read_text()):
            config = AutoConfig.for_model(**known)  # as in the first BERTs, which came before that field
        else:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    config._commit_hash = folder.name if folder.parent.name == "snapshots" else None
    return config


def _form(name: str, config: Any, classes: int | None, attention: str) -> str:
    """Which of FORMS the model is."""
    import transformers
    from transformers.models.auto import modeling_auto

    kind = config.model_type
    types = {form: getattr(modeling_auto, table) for form, (_, table) in FORMS.items()}
    form = "encoder-decoder" if getattr(config, "is_encoder_decoder", False) else "masked" if kind in types["masked"] else "causal"
    form = "head" if form == "masked" and classes is not None else form
    if kind not in types[form]:
        raise UsageError(
            f"{name} is a {kind} model, which cannot be loaded as {form}: encoder-decoder, masked and causal language models can"
        )
    class_name = types[form][kind]
    if attention == "sdpa" and not getattr(transformers, class_name)._supports_sdpa:
        raise UsageError(f"{name} is a {kind} model, which has no sdpa attention: use eager")
    return form


def _drawn(config: Any, form: str, attention: str, seed: int, device: str) -> nn.Module:
    """The architecture with fresh weights (on the meta device: with none)."""
    import transformers

    with _own_seed(seed), torch.device(device), _quiet():
        model = getattr(transformers, FORMS[form][0]).from_config(config, attn_implementation=attention, dtype=torch.float32)
        if form == "head":
            model.drawn = frozenset(name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}."))
        # transformers ties the head of T5 v1.1, which checkpoints of it do not; this is its sign.
        if getattr(config, "scale_decoder_outputs", True) is False:
            model.lm_head.weight = nn.Parameter(torch.randn(model.lm_head.weight.shape) * config.initializer_factor)
            model.all_tied_weights_keys.pop("lm_head.weight", None)
    return model


def _pretrained(place: Place, config: Any, form: str, attention: str, dtype: torch.dtype) -> nn.Module:
    import transformers

    folder = place.require()
    with _own_seed(0), _quiet(), _reading(f"the weights of {place.source}"):
        model, found = getattr(transformers, FORMS[form][0]).from_pretrained(
            folder, config=config, attn_implementation=attention, dtype=dtype, use_safetensors=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    unmerged = sorted(filter(FOREIGN.search, found["unexpected_keys"]))
    if unmerged:
        raise UsageError(f"{place.source} holds {unmerged[0]} beside the model's own weights: merge what was tuned into the model first")
    for key, there, wanted in sorted(found["mismatched_keys"]):
        raise MissingInput(f"{place.source} does not fit its config: {key} is {tuple(there)}, the config asks for {tuple(wanted)}")
    new = sorted(key for key in found["missing_keys"] if form == "head" and _of_head(model, key))
    lacking = sorted(found["missing_keys"] - set(new))
    if lacking:
        raise MissingInput(f"{place.source} does not hold all weights of a {config.model_type} model ({form}): {lacking[0]} is missing")
    for key in new:
        _draw(key, model.get_parameter(key), getattr(config, "initializer_range", 0.02))
    model.drawn = frozenset(new)  # see `apet.methods.tunable.head_of`
    return model


def _of_head(model: Any, key: str) -> bool:
    """Whether a parameter is the classification head's: outside the base model, or its pooler."""
    return not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key


def _draw(name: str, parameter: Tensor, spread: float) -> None:
    """Normal numbers that the parameter's name stands for; biases are zero and scales one already."""
    if parameter.dim() > 1:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")
        numbers = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            parameter.copy_(numbers * spread)


def _differentiable(model: nn.Module) -> None:
    """BLOOM's own GELU cannot be taken apart by torch.func; torch's is the same function."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "BloomGelu":
                setattr(module, name, nn.GELU(approximate="tanh"))


def _tokenizer(place: Place, config: Any, drawn: bool) -> Any:
    """The checkpoint's tokenizer; the ladder's for its own models, and for fresh weights where there is none on this machine."""
    if place.on_ladder or (drawn and place.folder is None):
        return ladder_tokenizer(config.model_type)
    from transformers import AutoTokenizer
    from transformers.utils.import_utils import is_protobuf_available, is_sentencepiece_available

    folder = place.require(weights=False)
    # Without files transformers makes a tokenizer that knows its special tokens only, and says nothing.
    if not any(True for pattern in VOCABULARIES for _ in folder.glob(pattern)) and _wants_files(folder):
        if drawn:
            return ladder_tokenizer(config.model_type)
        raise MissingInput(f"{place.source} holds no tokenizer here (none of {', '.join(VOCABULARIES)})")
    converted = any(folder.glob("*.model")) and not (folder / "tokenizer.json").exists()
    if converted and not (is_sentencepiece_available() and is_protobuf_available()):
        raise MissingInput(f"the tokenizer of {place.source} is a SentencePiece model: it needs 'pip install sentencepiece protobuf'")
    with _quiet(), _reading(f"the tokenizer of {place.source}"):
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)
    return tokenizer


def _wants_files(folder: Path) -> bool:
    """Whether the tokenizer that the folder names has a vocabulary in a file: ByT5's are the bytes."""
    import transformers

    try:
        named = json.loads((folder / "tokenizer_config.json").read_text()).get("tokenizer_class", "")
    except (OSError, ValueError, AttributeError):
        return True
    return bool(getattr(getattr(transformers, str(named), None), "vocab_files_names", {"": ""}))


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn whatever a library raises for a file that is missing, cut or of another format into one line."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError, StrictDataclassError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise MissingInput(f"{what} cannot be read: {lines[0] if lines else type(error).__name__}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and load reports: what matters of those becomes an error here."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _own_seed(seed: int) -> Iterator[None]:
    """Draw from `seed` on the CPU and leave the process's own generators as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
