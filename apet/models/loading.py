"""Load models by name: the built-in ladder, aliases (`apet.models.aliases`), Hugging Face ids in the cache, folders, and GGUF files.

This module does not use the network, reads weights from safetensors and GGUF files only, and never runs code that comes with a checkpoint.
Quantised weights of a GGUF file are converted to float32, or to the chosen type.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from apet.errors import MissingInput, UsageError, lookup
from apet.models.aliases import ALIASES
from apet.models.forms import BARE, FORMS, form_of, is_classifier, of_output
from apet.models.guarded_calls import own_seed, quiet, reading
from apet.models.ladder import attend_nearby, config_of
from apet.models.locations import ModelLocation, locate
from apet.models.mnist_nets import NETS, draw_net
from apet.models.tokenizers import load_tokenizer
from apet.random_numbers import weights
from apet.subspaces import tensor_roles

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = ("eager", "sdpa")
FOREIGN = re.compile(r"\.(lora_|ia3_|adapters?[._]|prompt_|prefix_)")  # parameters of a tuning method that were not merged


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer.

    `parameters` counts tied tensors once. `without_embeddings` is the same number without token embeddings and output head.
    `fingerprint` is a sha256 of all weights, empty for a model without weights (shapes only). `form` is a key of `apet.models.forms.FORMS`,
    "image" for a network, or "bare" for a checkpoint without a language-model head. A bare model cannot answer in words: the language-model
    head that it is loaded with was never trained. Load it with `classes`.
    """

    name: str
    model: nn.Module
    tokenizer: Any
    parameters: int
    without_embeddings: int
    fingerprint: str
    form: str


def load_model(
    name: str, random_init: bool = False, seed: int = 0, device: str = "cpu", *, dtype: str = "float32", attention: str = "eager",
    classes: int | None = None, shapes_only: bool = False,
) -> Loaded:  # fmt: skip
    """Load the model `name` in evaluation mode, as an encoder-decoder, masked or causal language model, whichever it is.

    With `classes` C >= 1 the model has a head with C outputs in place of its language-model head (form "head"). A regression has one
    output. The head of a checkpoint that was saved as a classifier of C classes is kept. All parameters of the head that the checkpoint
    lacks, or has for another number of classes, are random numbers that depend only on the parameter's name.

    `random_init` keeps the architecture and draws all weights with `seed`; an alias then needs no files on this machine. `shapes_only`
    builds the model without weights, on the meta device. `attention` is "eager", which can be differentiated twice, or "sdpa", which is
    faster but cannot. `dtype` is the type of the weights. For float16 T5 checkpoints, transformers keeps the last feed-forward projections
    in float32.

    A network for images (`apet.models.mnist_nets`) has no pretrained weights and no tokenizer: it needs `random_init` or `shapes_only`.

    Raises UsageError for an unknown name, a model of another kind or an invalid option. Raises MissingInput for a model that is not on
    this machine or is incomplete.
    """
    lookup(DTYPES, dtype, "dtype")
    lookup(dict.fromkeys(ATTENTION), attention, "attention")
    if classes is not None and classes < 1:
        raise UsageError(f"classes = {classes} must be at least 2 for a classification head, or 1 for a regression")
    if name in NETS:
        return _net(name, random_init or shapes_only, seed, device, dtype, shapes_only)
    location = locate(name)
    config, drawn = _config(name, location, random_init or shapes_only), random_init or shapes_only
    form = form_of(name, config, classes, attention)
    if form == "head":
        config.num_labels = classes
    if drawn:
        model = _drawn(config, form, attention, seed, "meta" if shapes_only else "cpu").to(DTYPES[dtype])
        if location.on_ladder and config.model_type == "bert" and not shapes_only:
            attend_nearby(model)  # the random-init twin starts as pretraining did
    else:
        model, form = _pretrained(location, config, form, attention, DTYPES[dtype])
    if classes is None and is_classifier(config):
        form = BARE
    tokenizer = load_tokenizer(location, config, drawn)
    _differentiable(model)
    model.eval()
    total = sum(p.numel() for p in model.parameters())
    tables = sum(model.get_parameter(key).numel() for key, roles in tensor_roles(model).items() if "token-tables" in roles)
    if not shapes_only:
        model.to(device)
    return Loaded(name, model, tokenizer, total, total - tables, "" if shapes_only else fingerprint(model), form)


def saved_form(name: str, attention: str = "eager") -> str:
    """Return the form of the model `name` from its configuration alone: a key of FORMS, "image", or "bare" for a saved classifier.

    Raises the errors of `load_model` for an unknown name, a model of another kind and an attention that the model does not support.
    """
    if name in NETS:
        return "image"
    config = _config(name, locate(name), True)
    form = form_of(name, config, None, attention)
    return BARE if is_classifier(config) else form


def _net(name: str, drawn: bool, seed: int, device: str, dtype: str, shapes_only: bool) -> Loaded:
    if not drawn:
        raise UsageError(f"{name} has no trained weights", random_init=True)
    model = draw_net(name, seed, "meta" if shapes_only else "cpu").to(DTYPES[dtype]).eval()
    if not shapes_only:
        model.to(device)
    total = sum(p.numel() for p in model.parameters())
    return Loaded(name, model, None, total, total, "" if shapes_only else fingerprint(model), "image")


def fingerprint(model: nn.Module) -> str:
    """Return a sha256 of the names, shapes, types and bytes of all parameters. Tied tensors count once."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _config(name: str, location: ModelLocation, drawn: bool) -> Any:
    from transformers import AutoConfig

    if location.on_ladder:
        _, family, size = name.split("-")
        return config_of(family, size)
    alias_config = {alias.hub_id: alias.config for alias in ALIASES.values()}.get(location.source)
    if drawn and alias_config:
        return AutoConfig.for_model(**alias_config)
    folder = location.require(weights=not drawn)
    with reading(f"{'the configuration' if location.gguf else 'config.json'} of {location.source}"):
        if alias_config and "model_type" not in json.loads((folder / "config.json").read_text()):
            config = AutoConfig.for_model(**alias_config)  # the first BERT checkpoints are older than this field
        else:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **location.file_argument)
    config._commit_hash = folder.name if folder.parent.name == "snapshots" else None
    return config


def _drawn(config: Any, form: str, attention: str, seed: int, device: str) -> nn.Module:
    """Return the architecture with fresh weights drawn with `seed` (on the meta device: without weights)."""
    import transformers

    with own_seed(seed), torch.device(device), quiet():
        model = getattr(transformers, FORMS[form][0]).from_config(config, attn_implementation=attention, dtype=torch.float32)
        if form == "head":
            model.drawn = frozenset(name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}."))
        # transformers ties the output head of T5 v1.1 to the embeddings, unlike its checkpoints. This field marks T5 v1.1.
        elif getattr(config, "scale_decoder_outputs", True) is False:
            model.lm_head.weight = nn.Parameter(torch.randn(model.lm_head.weight.shape) * config.initializer_factor)
            model.all_tied_weights_keys.pop("lm_head.weight", None)
    return model


def _pretrained(location: ModelLocation, config: Any, form: str, attention: str, dtype: torch.dtype) -> tuple[Any, str]:
    """Return the model with the checkpoint's weights, and its form: "bare" if the checkpoint lacks the language-model head."""
    import transformers

    folder = location.require()
    with own_seed(0), quiet(), reading(f"the weights of {location.source}"):
        model, report = getattr(transformers, FORMS[form][0]).from_pretrained(
            folder, config=config, attn_implementation=attention, dtype=dtype, use_safetensors=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True, **location.file_argument,
        )  # fmt: skip
    unmerged = sorted(filter(FOREIGN.search, report["unexpected_keys"]))
    if unmerged:
        raise UsageError(
            f"{location.source} holds {unmerged[0]} in addition to the model's weights: merge the tuned parameters into the model first"
        )
    new = {key for key in report["missing_keys"] if of_output(model, form, key)}
    for key, stored_shape, expected_shape in sorted(report["mismatched_keys"]):
        if form == "head" and of_output(model, form, key):  # a classifier of another number of classes
            new.add(key)
            continue
        raise MissingInput(
            f"the weights of {location.source} do not fit its config: {key} has shape {tuple(stored_shape)}, the config requires "
            f"{tuple(expected_shape)}"
        )
    lacking = sorted(report["missing_keys"] - new)
    if lacking:
        raise MissingInput(f"{location.source} lacks weights of a {config.model_type} model ({form}): {lacking[0]} is missing")
    for key in sorted(new):
        _fill(key, model.get_parameter(key), getattr(config, "initializer_range", 0.02))
    if form == "head":
        model.drawn = frozenset(new)  # see `apet.methods.tunable_model.classification_head`
    return model, BARE if new and form != "head" else form


def _fill(name: str, parameter: Tensor, std: float) -> None:
    """Fill a matrix with normal numbers that depend on its name, of standard deviation `std`. Leave vectors (zeros or ones) unchanged."""
    if parameter.dim() > 1:
        with torch.no_grad():
            parameter.copy_(weights(name, parameter.shape) * std)


def _differentiable(model: nn.Module) -> None:
    """Replace BLOOM's GELU, which torch.func cannot differentiate, by torch's GELU, which computes the same function."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "BloomGelu":
                setattr(module, name, nn.GELU(approximate="tanh"))
