"""A tuned model as a small file: `apet.safetensors` holds z, the parameters of a trained head, and positions that do not follow a rule.

The header holds the rule and the seed of the positions (or states that the positions are listed) and hashes of the positions, the space
and the base weights. So the file cannot be applied to another base or to other entries. The header also holds the template and the label
words (`apet.scoring.verbaliser`).
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

VERSION = 2  # version 1 has neither a hash of the positions nor a verbaliser, and its rules yield positions of version 1


@dataclass(frozen=True)
class PlacementRule:
    """The rule that yields the positions from a seed: the arguments of `apet.subspaces.place`."""

    unit: str
    order: str
    seed: int
    requested: int
    version: int = POSITIONS


@dataclass(frozen=True)
class Artefact:
    """Displacements z (k,), fp32, of entries of a base model.

    The entries are at the positions of `rule` in the space that `scope` selects, or at listed positions `index` (k,) if `rule` is None.
    `head` holds the parameters, by name, of a classification head that was trained with z.
    """

    z: torch.Tensor
    base: str  # the name under which the base model is loaded
    revision: str | None
    weights: str  # sha256 of all weights of the base, `apet.models.loading.fingerprint`
    dtype: str
    rule: PlacementRule | None
    positions: str  # sha256 of the positions, `apet.subspaces.digest`; empty in a file of version 1
    index: np.ndarray | None = None
    scope: str = ""
    space: str = ""  # fingerprint of the space
    operations: tuple[str, ...] = ("add",)
    head: dict[str, torch.Tensor] = field(default_factory=dict)
    verbaliser: Verbaliser | None = None

    def save(self, path: Path) -> None:
        """Write the file atomically. It takes 4 bytes per entry if the positions follow a rule, and 12 bytes if they are listed."""
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
            made_on = f"{self.base} (weights {self.weights[:12]})"
            raise UsageError(f"the artefact was made on {made_on}, but this model's weights are {weights[:12]}: load the artefact's base")

    def coordinates(self, model: nn.Module, weights: str) -> Coordinates:
        """Return the tuned entries of `model`, whose fingerprint is `weights`. The operations' new parameters are added to `model`.

        Raises UsageError if `weights` is not the fingerprint of the artefact's base, and if the space, the number of values or the
        positions differ from the tuned ones.
        """
        self.check_base(weights)
        space = tunable_space(model, tuple(self.operations), self.scope)
        if space.fingerprint != self.space:
            raise UsageError(f"the scope '{self.scope}' of this model is not the space in which the artefact's positions are counted")
        if self.rule:
            rule = self.rule
            coordinates = place(space, rule.requested, rule.seed, rule.unit, rule.order, version=rule.version).coordinates
        else:
            assert self.index is not None
            coordinates = Coordinates(space, self.index)
        if coordinates.k != len(self.z):
            raise UsageError(f"the artefact is damaged: it has {len(self.z)} values for {coordinates.k} positions")
        if self.positions and coordinates.digest != self.positions:
            raise UsageError(f"the artefact's rule ({self.rule}) yields positions on this machine that differ from the tuned ones")
        return coordinates

    def attach(self, model: nn.Module, weights: str) -> Attached:
        """Attach z to `model` and copy the artefact's head into it. The head keeps its values after a detach.

        Raises the errors of `coordinates` before any tuned value is written.
        """
        attached = self.coordinates(model, weights).attach(model)
        with torch.no_grad():
            attached.z.copy_(self.z)
            for name, value in self.head.items():
                model.get_parameter(name).copy_(value)
        attached.write()
        return attached


def load(path: Path) -> Artefact:
    """Read an artefact.

    Raises MissingInput if the file does not exist, and UsageError if it is not an artefact or has an unknown version.
    """
    if not path.is_file():
        raise MissingInput(f"no artefact {path}")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["apet"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a safetensors file is not a mapping)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} is not an apet artefact: {error}") from error
    version = header.pop("version")
    if version not in (1, VERSION):
        raise UsageError(f"{path} has version {version}, but this program reads only versions 1 and {VERSION}")
    rule, verbaliser = header.pop("law"), header.pop("verbaliser", None)
    if version == 1:
        header["positions"], rule = "", rule and {**rule, "version": 1}
    index = tensors["index"].numpy() if "index" in tensors else None
    head = {key.removeprefix("head."): value for key, value in tensors.items() if key.startswith("head.")}
    header |= {"rule": rule and PlacementRule(**rule), "verbaliser": verbaliser and Verbaliser.read(verbaliser)}
    return Artefact(z=tensors["z"], index=index, head=head, **header)


def save_merged(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the model with its tuned values as an ordinary checkpoint folder, which can be loaded without this program."""
    import copy

    save_checkpoint(copy.deepcopy(model), tokenizer, folder)  # a deep copy holds ordinary parameters


def save_checkpoint(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model with ordinary parameters, and its tokenizer, as a checkpoint folder."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
