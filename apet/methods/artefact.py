"""A tuned model as a small file: `apet.safetensors` holds z, the positions if they follow no rule, and a trained head.

The header holds the rule and the seed of the positions (or says that they are listed), their hash, and the hashes of the space and of the
weights: the file cannot be put on another base, nor on other entries. It also holds template and label words (`apet.scoring.verbaliser`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from apet.errors import MissingInput, UsageError
from apet.files import atomic_path
from apet.methods.tuning import tunable_space
from apet.scoring import Verbaliser
from apet.subspaces import VERSION as POSITIONS
from apet.subspaces import Attached, Coordinates, place

VERSION = 2  # 1 had neither a hash of its positions nor a verbaliser, and its rules give positions of version 1


@dataclass(frozen=True)
class PlacementRule:
    """How the positions follow from a seed: the arguments of `apet.subspaces.place`."""

    unit: str
    order: str
    seed: int
    requested: int
    version: int = POSITIONS


@dataclass(frozen=True)
class Artefact:
    """Displacements z (k,) fp32 of entries of a base model: at the positions of `rule`, or at `index` (k,), in the space of `scope`.

    `head` holds the parameters of a classification head that was trained along, by name.
    """

    z: torch.Tensor
    base: str  # the name it was loaded by
    revision: str | None
    weights: str  # sha256 of all weights, `apet.models.loading.fingerprint`
    dtype: str
    rule: PlacementRule | None
    positions: str  # their sha256, `apet.subspaces.placement.digest`; empty in a file of version 1
    index: np.ndarray | None = None
    scope: str = ""
    space: str = ""  # fingerprint of the space
    operations: tuple[str, ...] = ("add",)
    head: dict[str, torch.Tensor] = field(default_factory=dict)
    verbaliser: Verbaliser | None = None

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all: 4 bytes a position by rule, 12 bytes a listed position."""
        header = {name: value for name, value in asdict(self).items() if name not in ("z", "index", "rule", "head")}
        header |= {"version": VERSION, "law": asdict(self.rule) if self.rule else None}
        tensors = {"z": self.z.detach().float().cpu().contiguous()}
        tensors |= {f"head.{name}": value.contiguous() for name, value in self.head.items()}
        if self.rule is None:
            assert self.index is not None
            tensors["index"] = torch.as_tensor(self.index)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"apet": json.dumps(header)})

    def check_base(self, weights: str) -> None:
        """Raises UsageError unless `weights` is the fingerprint of the artefact's base."""
        if weights != self.weights:
            raise UsageError(f"the artefact was made on {self.base} (weights {self.weights[:12]}), this model's weights are {weights[:12]}")

    def coordinates(self, model: nn.Module, weights: str) -> Coordinates:
        """Return the tuned entries of `model`, whose fingerprint is `weights`; new parameters of the operations are put into it.

        Raises UsageError for another base than the artefact's, and if its rule gives other positions than it did when it was made.
        """
        self.check_base(weights)
        space = tunable_space(model, tuple(self.operations), self.scope)
        if space.fingerprint != self.space:
            raise UsageError(f"the scope '{self.scope}' of this model is not the space that the artefact counts its positions in")
        if self.rule:
            rule = self.rule
            coordinates = place(space, rule.requested, rule.seed, rule.unit, rule.order, version=rule.version).coordinates
        else:
            assert self.index is not None
            coordinates = Coordinates(space, self.index)
        if coordinates.k != len(self.z):
            raise UsageError(f"the artefact has {len(self.z)} values for {coordinates.k} positions")
        if self.positions and coordinates.digest != self.positions:
            raise UsageError(f"the rule of the artefact ({self.rule}) gives other positions here than those that were tuned")
        return coordinates

    def attach(self, model: nn.Module, weights: str) -> Attached:
        """Mount z on `model` and fill its head, which stays filled; raises what `coordinates` raises, before anything is tuned."""
        attached = self.coordinates(model, weights).attach(model)
        with torch.no_grad():
            attached.z.copy_(self.z)
            for name, value in self.head.items():
                model.get_parameter(name).copy_(value)
        attached.write()
        return attached


def load(path: Path) -> Artefact:
    """Read an artefact. Raises MissingInput where there is none, UsageError for a file that is none, or of another version."""
    if not path.is_file():
        raise MissingInput(f"no artefact {path}")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["apet"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a safetensors file is no mapping)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} is no apet artefact: {error}") from error
    version = header.pop("version")
    if version not in (1, VERSION):
        raise UsageError(f"{path} has version {version}, this program reads 1 and {VERSION}")
    rule, verbaliser = header.pop("law"), header.pop("verbaliser", None)
    if version == 1:
        header["positions"], rule = "", rule and {**rule, "version": 1}
    index = tensors["index"].numpy() if "index" in tensors else None
    head = {key.removeprefix("head."): value for key, value in tensors.items() if key.startswith("head.")}
    header |= {"rule": rule and PlacementRule(**rule), "verbaliser": verbaliser and Verbaliser.read(verbaliser)}
    return Artefact(z=tensors["z"], index=index, head=head, **header)


def save_merged(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the model with its tuned values as an ordinary checkpoint folder, which needs nothing of this program."""
    import copy

    plain = copy.deepcopy(model)  # a deep copy holds ordinary parameters
    plain.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
