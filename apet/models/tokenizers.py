"""Load a model's tokenizer: from its checkpoint or from the ladder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from apet.errors import MissingInput
from apet.models.forms import pretrained_form
from apet.models.guarded_calls import quiet, reading
from apet.models.ladder import ladder_tokenizer
from apet.models.locations import ModelLocation

VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken")


def load_tokenizer(location: ModelLocation, config: Any, drawn: bool) -> Any:
    """Return the tokenizer of a checkpoint.

    Return the ladder's tokenizer for a ladder model, and for fresh weights (`drawn`) if the model has no tokenizer on this machine. Raises
    MissingInput if the tokenizer is missing or cannot be read.
    """
    family = "bert" if pretrained_form(config) == "masked" else config.model_type
    if location.on_ladder or (drawn and location.folder is None):
        return ladder_tokenizer(family)
    from transformers import AutoTokenizer
    from transformers.utils.import_utils import is_protobuf_available, is_sentencepiece_available

    folder = location.require(weights=False)
    # Without vocabulary files, transformers silently builds a tokenizer that knows only its special tokens.
    listed = location.gguf or any(True for pattern in VOCABULARIES for _ in folder.glob(pattern))
    if not listed and _wants_files(folder):
        if drawn:
            return ladder_tokenizer(family)
        expected = ", ".join(VOCABULARIES)
        raise MissingInput(f"{location.source} has no tokenizer on this machine (none of {expected}): download it or add its files")
    converted = not location.gguf and any(folder.glob("*.model")) and not (folder / "tokenizer.json").exists()
    if converted and not (is_sentencepiece_available() and is_protobuf_available()):
        raise MissingInput(f"the tokenizer of {location.source} is a SentencePiece model: run 'pip install sentencepiece protobuf'")
    with quiet(), reading(f"the tokenizer of {location.source}"):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False, **location.file_argument
        )
    return tokenizer


def _wants_files(folder: Path) -> bool:
    """Return whether the tokenizer class that the folder names needs a vocabulary file (ByT5, which reads bytes, does not)."""
    import transformers

    try:
        class_name = json.loads((folder / "tokenizer_config.json").read_text()).get("tokenizer_class", "")
    except (OSError, ValueError, AttributeError):
        return True
    return bool(getattr(getattr(transformers, str(class_name), None), "vocab_files_names", {"": ""}))
