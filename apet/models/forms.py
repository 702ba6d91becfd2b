"""The forms in which a model answers, the transformers class of each form, and which parameters belong to the output of a form."""

from __future__ import annotations

from typing import Any

from apet.errors import UsageError

# form -> (Auto class of transformers, table of its model types)
FORMS = {
    "encoder-decoder": ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
    "masked": ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
    "head": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"),
    "causal": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
}
BARE = "bare"  # the form of a checkpoint without a language-model head, which can answer only after a classification head is added


def form_of(name: str, config: Any, classes: int | None, attention: str) -> str:
    """Return the form, a key of FORMS, in which a model of this configuration is loaded: "head" if `classes` is given.

    Raises UsageError if transformers has no class for the model in this form, or if the class does not support the attention.
    """
    import transformers

    kind, pretrained = config.model_type, pretrained_form(config)
    if kind not in _types(pretrained):
        if kind in _types("encoder-decoder"):
            raise UsageError(
                f"{name} is the encoder of a {kind} model alone, for which transformers has neither words nor classes as output"
            )
        raise UsageError(
            f"{name} is a {kind} model, which cannot be loaded as {pretrained}: choose an encoder-decoder, masked or causal language model"
        )
    form = pretrained if classes is None else "head"
    if kind not in _types(form):
        raise UsageError(f"{name} is a {kind} model, for which transformers has no sequence classifier", readout="words")
    class_name = _types(form)[kind]
    if attention == "sdpa" and not getattr(transformers, class_name)._supports_sdpa:
        raise UsageError(f"{name} is a {kind} model, which does not support sdpa attention: use eager")
    return form


def pretrained_form(config: Any) -> str:
    """Return the form in which models of this configuration are pretrained: "encoder-decoder", "masked" or "causal"."""
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    return "masked" if config.model_type in _types("masked") else "causal"


def _types(form: str) -> dict[str, str]:
    """Return {model type: class name} of a form."""
    from transformers.models.auto import modeling_auto

    return getattr(modeling_auto, FORMS[form][1])


def is_classifier(config: Any) -> bool:
    """Return whether the checkpoint of this configuration was saved as a sequence classifier, without its language-model head."""
    architectures = getattr(config, "architectures", None) or [""]
    return all(name.endswith("ForSequenceClassification") for name in architectures)


def of_output(model: Any, form: str, name: str) -> bool:
    """Return whether the parameter `name` belongs to the output of `model`: to its language-model head or its classification head.

    A classification head (form "head") includes the pooler. The language models of T5's family have no base model, but an `lm_head`.
    """
    base = model.base_model
    outside = name.startswith("lm_head.") if base is model else not name.startswith(f"{model.base_model_prefix}.")
    return outside or (form == "head" and ".pooler." in name)
