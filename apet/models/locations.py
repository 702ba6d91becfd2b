"""Find a model's files: in the built-in ladder, in the Hugging Face cache, in a folder, or in a GGUF file.

This module neither uses the network nor imports torch. A model that is not on this machine leads to an error with the download command.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from apet.errors import MissingInput, UsageError, did_you_mean
from apet.models.aliases import ALIASES
from apet.models.ladder import LADDER, every_name

WEIGHTS = "model.safetensors"
ADAPTER = "adapter_config.json"
UNREAD = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@dataclass(frozen=True)
class ModelLocation:
    """A ladder name, Hugging Face id, folder or GGUF file (`source`), and the folder of its files (`folder`, None if not on this machine).

    `gguf` is the name of a GGUF file in the folder, which then holds configuration, weights and tokenizer.
    """

    source: str
    folder: Path | None
    gguf: str | None = None

    @property
    def on_ladder(self) -> bool:
        return self.source in every_name()

    @property
    def file_argument(self) -> dict[str, str]:
        """The argument that tells transformers' `from_pretrained` to read the GGUF file, if there is one."""
        return {} if self.gguf is None else {"gguf_file": self.gguf}

    def require(self, weights: bool = True) -> Path:
        """Return the folder.

        Raises MissingInput, with a remedy, unless it holds a config and, with `weights`, all safetensors files, or if the package for GGUF
        files is missing. Raises UsageError if the folder holds an adapter as well.
        """
        if self.folder is None and self.on_ladder:
            raise MissingInput(f"{self.source} is not shipped with weights (pretrain it first)", random_init=True)
        if self.folder is None:
            raise MissingInput(f"{self.source} is not on this machine: download it with 'hf download {self.source}'")
        if self.gguf is not None:
            if find_spec("gguf") is None:
                raise MissingInput(f"{self.source} is a GGUF file, which needs the package gguf: run 'pip install gguf'")
            return self.folder
        if (self.folder / ADAPTER).exists():  # transformers would add the adapter to the model, or load another model instead
            raise UsageError(
                f"{self.source} holds a peft adapter ({ADAPTER}): merge it into its model (peft's merge_and_unload, save_pretrained), "
                "or remove the adapter's files to use the model without them"
            )
        lacking, cached = _lacking(self.folder, weights), self.folder.parent.name == "snapshots"
        if not lacking:
            return self.folder
        where = f"the {'cached' if cached else 'folder'} {self.source}"
        unread = sorted(path.name for pattern in UNREAD for path in self.folder.glob(pattern))
        if lacking == WEIGHTS and unread:
            raise MissingInput(
                f"{where} has its weights in {unread[0]}, which is not a safetensors file: download a revision that has one "
                "(hf download ID --revision refs/pr/N), or convert the weights with transformers' save_pretrained"
            )
        remedy = f": run 'hf download {self.source}'" if cached else ""
        raise MissingInput(f"{where} holds an incomplete model: {lacking} is missing{remedy}")


def locate(name: str) -> ModelLocation:
    """Return the location of the model `name`.

    Raises UsageError for a name that is neither known nor a possible id, and MissingInput for a path that does not exist.
    """
    if name in every_name():
        return ModelLocation(name, LADDER / name if (LADDER / name / WEIGHTS).exists() else None)
    if name in ALIASES:
        return ModelLocation(ALIASES[name].hub_id, snapshot(ALIASES[name].hub_id))
    if name.endswith(".gguf"):
        if not Path(name).is_file():
            raise MissingInput(f"no model file {name}: check the path")
        return ModelLocation(name, Path(name).parent, Path(name).name)
    if Path(name).is_dir():
        return ModelLocation(name, Path(name))
    if cached := snapshot(name):
        return ModelLocation(name, cached)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise MissingInput(f"no model folder {name}: check the path")
    if "/" in name:
        return ModelLocation(name, None)
    raise UsageError(
        f"unknown model '{name}' (no ladder model, alias, folder, GGUF file, or id with a slash)"
        f"{did_you_mean(name, [*every_name(), *ALIASES])}"
    )


def snapshot(hub_id: str) -> Path | None:
    """Return the folder of a cached revision of `hub_id`, None if there is no revision in the cache.

    The main revision is preferred, unless only another one (`hf download --revision`) has all safetensors files.
    """
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"
    reference = repository / "refs" / "main"
    main = repository / "snapshots" / reference.read_text().strip() if reference.is_file() else None
    others = sorted(folder for folder in repository.glob("snapshots/*") if folder != main)
    cached = [folder for folder in ([main] if main else []) + others if folder.is_dir()]
    return next((folder for folder in cached if not _lacking(folder, weights=True)), cached[0] if cached else None)


def _lacking(folder: Path, weights: bool) -> str:
    """Return the name of a file that the folder lacks, or "" if the model is complete. Weights count only with `weights`."""
    if not (folder / "config.json").exists():
        return "config.json"
    index = folder / f"{WEIGHTS}.index.json"
    if not weights or (folder / WEIGHTS).exists():
        return ""
    if not index.exists():
        return WEIGHTS
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"a readable {index.name}"
    missing = [shard for shard in shards if not (folder / shard).exists()]
    return f"{missing[0]} ({len(missing)} of {len(shards)} shards)" if missing else ""
