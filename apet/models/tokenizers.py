"""Load the tokenizer of a model: the checkpoint's, or the ladder's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from apet.errors import MissingInput
from apet.models.guarded_calls import quiet, reading
from apet.models.ladder import ladder_tokenizer
from apet.models.locations import ModelLocation

VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken")


def load_tokenizer(place: ModelLocation, config: Any, drawn: bool) -> Any:
    """Return the checkpoint's tokenizer; the ladder's for its own models, and for fresh weights where there is none on this machine."""
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
    with quiet(), reading(f"the tokenizer of {place.source}"):
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)
    return tokenizer


def _wants_files(folder: Path) -> bool:
    """Return whether the tokenizer that the folder names has a vocabulary in a file: ByT5's are the bytes."""
    import transformers

    try:
        named = json.loads((folder / "tokenizer_config.json").read_text()).get("tokenizer_class", "")
    except (OSError, ValueError, AttributeError):
        return True
    return bool(getattr(getattr(transformers, str(named), None), "vocab_files_names", {"": ""}))
