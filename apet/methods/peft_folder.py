"""A tuned model as an adapter folder of peft, which `peft.PeftModel.from_pretrained` loads onto the base model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apet.errors import UsageError
from apet.files import atomic_folder
from apet.methods.lora import lora_config
from apet.methods.merged_delta import WRAPPED
from apet.methods.peft_tuners import PREFIX as PEFT
from apet.methods.peft_tuners import configured
from apet.methods.registry import method_named
from apet.methods.virtual_tokens import task_type

OURS = {"prompt": "prompt_tuning", "prefix": "prefix_tuning"}  # our methods that are tuners of peft, with the option `tokens`


def save_peft(
    method: str, base: str, model: Any, options: Mapping[str, Any], values: Mapping[str, Tensor], head: Mapping[str, Tensor], folder: Path
) -> None:
    """Write the final `values` of a method's new parameters, and of a classification head, as an adapter of peft.

    base: the name of the base model, and `model` its copy, which is changed.
    options: the method's options that differ from their default.
    values, head: {name: tensor}, as in `apet.methods.final_values`.

    Raises UsageError for a method that is not a tuner of peft, and for a model that peft would compute differently.
    """
    config = _config(method, model, options)
    prepends = method_named(method).virtual_tokens and config.peft_type != "PREFIX_TUNING"
    if prepends and head and getattr(model.base_model, "pooler", None) is not None:
        raise UsageError(
            f"{method} cannot be exported from {type(model).__name__}: here its head reads the first token of the text, in peft the first "
            "virtual token; train with readout words for an export"
        )
    config.task_type = task_type(model)
    config.modules_to_save = sorted({_part(name, model) for name in head}) or None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapper = _filled(model, config, values, head)
        wrapper.peft_config["default"].base_model_name_or_path = base
        with atomic_folder(folder) as temporary:
            wrapper.save_pretrained(temporary, save_embedding_layers=False)


def _config(method: str, model: Any, options: Mapping[str, Any]) -> Any:
    """Return peft's Config of a method for `model`, complete for virtual tokens."""
    from apet.methods.virtual_tokens import complete_for_embeddings, complete_for_keys

    if method == "lora":
        return lora_config(model, **options)
    if method not in OURS and not method.startswith(PEFT):
        raise UsageError(f"{method} is not a tuner of peft, so peft cannot load it: its final values are in the run's arrays.safetensors")
    tuner = OURS.get(method, method.removeprefix(PEFT))
    config = configured(tuner, model, {"num_virtual_tokens" if name == "tokens" else name: value for name, value in options.items()})
    if not method_named(method).virtual_tokens:
        return config
    (complete_for_keys if tuner == "prefix_tuning" else complete_for_embeddings)(model, config)
    return config


def _part(name: str, model: Any) -> str:
    """Return the name of the module of a head's parameter that peft saves as a whole: classifier, or pooler."""
    return name.removeprefix(f"{model.base_model_prefix}.").partition(".")[0]


@torch.no_grad()
def _filled(model: nn.Module, config: Any, values: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> Any:
    """Return `model`, wrapped by peft, with the values of the adapter and of the head."""
    from peft import get_peft_model

    wrapper = get_peft_model(model, config)  # type: ignore[arg-type]
    for name, value in values.items():
        wrapper.get_parameter(name if name.startswith((WRAPPED, "prompt_encoder.")) else WRAPPED + name).copy_(value)
    copies = {name.replace(".modules_to_save.default", ""): p for name, p in wrapper.named_parameters() if ".modules_to_save." in name}
    for name, value in head.items():
        next(p for path, p in copies.items() if path.endswith(f".{name}")).copy_(value)
    return wrapper.eval()
