"""Every tuner of the installed peft as a method `peft:NAME`, for instance `peft:vera`. The record is made on demand from the name.

The options are the scalar fields of the tuner's Config. The tuner is placed on peft's own target modules for the model's type. For types
that peft does not know, it is placed on the projections that `lora` would choose, or on the normalisation layers for ln_tuning.
"""

from __future__ import annotations

import importlib.util
from dataclasses import MISSING, fields
from functools import cache, partial
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from apet.errors import UsageError
from apet.methods.method import Method, MethodOption
from apet.methods.virtual_tokens import TOKENS

if TYPE_CHECKING:
    from torch import nn

    from apet.methods.tunable_model import TunableModel

PREFIX = "peft:"
MARKERS = "Xdph8<>"  # the filled markers of matplotlib that other methods do not have

# tuner -> the reason why a run cannot use it
REFUSED = {
    "adalora": "changes its ranks on a schedule (total_step) that the optimiser must follow",
    "adamss": "clusters the singular vectors of the weights, so k is not known from the shapes",
    "adaption_prompt": "replaces the attentions of a few model types",
    "cartridge": "starts at the cached keys and values of a document",
    "cpt": "needs the token ids and masks of a context",
    "multitask_prompt_tuning": "needs a task id in every batch",
    "poly": "needs a task id in every batch",
    "shadow": "trains a second model with a separate loss",
    "xlora": "mixes trained LoRA adapters, which it reads from folders",
}
# Fields that are not options: they concern training, other parameters, saving or hardware.
_WITHHELD = (
    "bias ensure_weight_tying fan_in_fan_out inference_mode layer_replication megatron_core modules_to_save num_attention_heads num_layers "
    "num_transformer_submodules progressbar revision runtime_offload_base_weight sample_at_inference save_only_topk_weights "
    "save_precomputed_indices save_projection save_indices task_type token_dim tokenizer_name_or_path trainable_token_indices use_asa "
    "auto_mapping base_model_name_or_path peft_type peft_version prompt_tuning_init prompt_tuning_init_text use_qalora qalora_group_size "
    "target_parameters alora_invocation_tokens generator_seed"
)
# Initial values that need data, or that change the base weights.
UNSUPPORTED_VALUES = frozenset(("corda", "eva", "loftq", "lora_ga", "mica", "olora", "pissa"))
DIALS = ("num_virtual_tokens", "n_frequency", "theta_d_length", "u", "r")  # k grows with the first of these that a tuner has ...
NO_DIAL = frozenset(("gralora", "oft", "randlora", "supertuning", "vblora"))  # ... except with these tuners' r
_MERGEABLE = (
    "boft c3a deft delora fourierft frod glora gralora hira hra ia3 ln_tuning loha lokr lora miss oft osf peanut psoft pvera randlora road "
    "shira supertuning tinylora unilora vblora vera waveft"
)
# ln_tuning copies norms in the type of the weights: its own tensors are not float32.
STARTS_ELSEWHERE = frozenset(("c3a", "fourierft", "p_tuning", "prefix_tuning", "prompt_tuning", "unilora", "vblora"))
VIRTUAL = ("p_tuning", "prefix_tuning", "prompt_tuning")
RATES = {"prompt_tuning": 0.1, "p_tuning": 3e-3, "prefix_tuning": 3e-2}


def _names() -> tuple[str, ...]:
    """Return the methods `peft:NAME` of the installed peft, read from the file of its tuner types. peft itself is not imported."""
    package = importlib.util.find_spec("peft")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "utils" / "peft_types.py"
    spec = importlib.util.spec_from_file_location("_peft_types", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tuple(sorted(f"{PREFIX}{each.value.lower()}" for each in module.PeftType))


PEFT_METHODS = _names()


def peft_words(name: str) -> str:
    """Return the name of a method `peft:NAME` in figures."""
    return f"{name.removeprefix(PREFIX)} (peft)"


def peft_marker(name: str) -> str:
    """Return the marker of a method `peft:NAME` in figures. Methods share markers, because there are more methods than markers."""
    return MARKERS[PEFT_METHODS.index(name) % len(MARKERS)]


@cache
def peft_method(name: str) -> Method:
    """Return the record of the method `name`, one of PEFT_METHODS. Raises UsageError for a tuner that needs what a run does not have."""
    tuner = name.removeprefix(PREFIX)
    if tuner in REFUSED:
        raise UsageError(f"{name} is not supported: it {REFUSED[tuner]}")
    options = _options(_classes(tuner)[0])
    dial = next((option for option in DIALS if option in options), "") if tuner not in NO_DIAL else ""
    return Method(
        name, peft_words(name), peft_marker(name), RATES.get(tuner, 3e-3), partial(_tune, tuner), _tunes(tuner), options, dial,
        virtual_tokens="num_virtual_tokens" if tuner in VIRTUAL else "", mergeable=tuner in _MERGEABLE.split(),
        low_precision=tuner != "ln_tuning", starts_at_base=tuner not in STARTS_ELSEWHERE,
    )  # fmt: skip


def _tunes(tuner: str) -> str:
    return f"peft's {_classes(tuner)[0].__name__}"


def _classes(tuner: str) -> tuple[Any, Any]:
    """Return (Config class, tuner class) of peft."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils.peft_types import PeftType

    kind = PeftType(tuner.upper())
    return PEFT_TYPE_TO_CONFIG_MAPPING[kind], PEFT_TYPE_TO_TUNER_MAPPING[kind]


def _options(config: Any) -> dict[str, MethodOption]:
    """Return the options of a Config class: its fields whose values are numbers, texts, lists, or true or false."""
    hints, found = get_type_hints(config), {}
    for field in fields(config):
        if field.name in _WITHHELD.split() or "dropout" in field.name:  # models are trained without dropout
            continue
        types, choices = _plain(hints[field.name])
        choices = tuple(choice for choice in choices if choice not in UNSUPPORTED_VALUES and "[" not in str(choice))
        default = (
            field.default if field.default is not MISSING else field.default_factory() if field.default_factory is not MISSING else None
        )
        default = TOKENS if field.name == "num_virtual_tokens" else getattr(default, "value", default)  # the value of an Enum
        default = 0 if field.name == "random_seed" else default  # not another draw each time
        if types or choices:
            found[field.name] = MethodOption(default, types, choices)
    return found


def _plain(hint: Any) -> tuple[tuple[type, ...], tuple[Any, ...]]:
    """Return the plain types in a type hint, and the values of its Literals."""
    if get_origin(hint) is Literal:
        return (), get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        parts = [_plain(part) for part in get_args(hint)]
        return tuple(dict.fromkeys(kind for types, _ in parts for kind in types)), tuple(choice for _, more in parts for choice in more)
    kind = get_origin(hint) or hint
    return ((kind,), ()) if kind in (bool, int, float, str, list) and kind is not NoneType else ((), ())


def _tune(tuner: str, model: nn.Module, **options: Any) -> TunableModel:
    """Add the tuner's parameters to `model`, which is wrapped, and make only them trainable.

    Raises UsageError with peft's reason if the tuner does not fit the model or its options.
    """
    from apet.methods.virtual_tokens import prepended, with_keys, wrapped

    name = f"{PREFIX}{tuner}"
    try:
        config = configured(tuner, model, options)
        if tuner in VIRTUAL:
            return (with_keys if tuner == "prefix_tuning" else prepended)(model, config)
        tunable = wrapped(model, config)
    except (ValueError, TypeError, ImportError, AttributeError, LookupError, AssertionError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and any(p.is_meta for p in model.parameters()):
            raise  # the tuner computes with the weights, which this model does not have
        reason = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"{name} does not fit {type(model).__name__}: {reason}", method_option="NAME=VALUE") from error
    if not tunable.k:
        raise UsageError(f"{name} finds nothing to tune in {type(model).__name__}: set its options", method_option="NAME=VALUE")
    return tunable


def configured(tuner: str, model: nn.Module, options: dict[str, Any]) -> Any:
    """Return the tuner's Config for `model`, with its target modules and a seed for everything that is drawn."""
    from apet.methods.blocks import is_conv1d
    from apet.methods.lora import ALL_LINEAR, exactly, named_targets

    config_class, _ = _classes(tuner)
    known = {field.name for field in fields(config_class)}
    if tuner in VIRTUAL:
        return config_class(**{"num_virtual_tokens": TOKENS} | options)
    if "random_seed" in known:
        options = {"random_seed": 0} | options
    if "target_modules" in known and not options.get("target_modules") and not _knows_type(tuner, model):
        options = {"target_modules": _targets(tuner, model)} | options | ({"feedforward_modules": []} if tuner == "ia3" else {})
    if options.get("target_modules") == [ALL_LINEAR]:
        options = options | {"target_modules": exactly(named_targets(model, ALL_LINEAR))}
    if "progressbar" in known:
        options = {"progressbar": False} | options
    if "fan_in_fan_out" in known:
        options = {"fan_in_fan_out": any(map(is_conv1d, model.modules()))} | options
    return config_class(**options)


def _knows_type(tuner: str, model: Any) -> bool:
    """Return whether peft has target modules for the tuner and the model's type."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as OF_IA3

    known = {"ia3": OF_IA3}.get(tuner) or getattr(_classes(tuner)[1], "target_module_mapping", None)
    return known is None or getattr(getattr(model, "config", None), "model_type", None) in known  # None: trainable_tokens


def _targets(tuner: str, model: nn.Module) -> str:
    from apet.methods.lora import exactly, targets
    from apet.subspaces import tensor_roles

    if tuner == "ln_tuning":
        norms = [name for name, roles in tensor_roles(model).items() if "norms" in roles]
        return exactly(list(dict.fromkeys(name.rpartition(".")[0] for name in norms)))
    return exactly(targets(model))
