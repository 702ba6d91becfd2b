"""Checkpoints of a training run: one small file with a checksum, and the previous such file.

`checkpoint.safetensors` is the newest checkpoint and `checkpoint.previous.safetensors` the previous one. If the newest file is truncated
or altered, it is refused and the previous checkpoint is used. The lost steps are then computed again with bitwise equal results.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from apet.errors import ApetError
from apet.files import atomic_path
from apet.methods import TunableModel
from apet.training.options import Progress

log = logging.getLogger(__name__)
Content = tuple[dict[str, Tensor], dict[str, Any]]  # tensors by name, and the state as a JSON object


class Refused(ApetError):
    """The file is not a complete checkpoint."""


def previous(path: Path) -> Path:
    """Return the path of the previous checkpoint."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write `tensors` and `state` (JSON) to `path`. An existing file there becomes the previous checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    text = json.dumps(state)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"state": text, "sha256": _digest(tensors, text)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # otherwise a power cut after the renaming could destroy both files
        if path.exists():
            os.replace(path, previous(path))


def load_checkpoint(path: Path) -> Content | None:
    """Return the content of the newest complete checkpoint, None if nothing was saved.

    If the newest checkpoint is refused, it is renamed with a warning. Raises ApetError if there are checkpoints but none is complete.
    """
    existing = [candidate for candidate in (path, previous(path)) if candidate.exists()]
    for candidate in existing:
        try:
            content = read(candidate)
        except Refused as error:
            log.warning("the checkpoint %s is refused: %s", candidate, error)
            continue
        if candidate != path and path.exists():
            os.replace(path, path.with_name(f"{path.stem}.refused{path.suffix}"))  # otherwise it would become the previous checkpoint
        return content
    if existing:
        raise ApetError(f"no complete checkpoint in {' and '.join(map(str, existing))}", force=True)
    return None


def read(path: Path) -> Content:
    """Return the content of one file. Raises Refused if the file is not an intact checkpoint of `save_checkpoint`."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a safetensors file is not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise Refused(f"truncated, or not a checkpoint ({str(error).splitlines()[0]})") from error
    text = metadata.get("state", "")
    if metadata.get("sha256") != _digest(tensors, text):
        raise Refused("its content does not match its checksum")
    return tensors, json.loads(text)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def packed(
    tunable: TunableModel, optimizer: torch.optim.Optimizer, best: Mapping[str, Tensor], progress: Progress, run: dict, scaler: Any = None
) -> Content:
    """Return the complete state of a run, from which it can resume. `run` (JSON) identifies the run."""
    tensors = {f"trainable.{name}": p for name, p in tunable.trainable.items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    if tunable.trajectory:
        tensors["trajectory"] = torch.stack(tunable.trajectory)
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
    return tensors, {"run": run, "progress": asdict(progress), "scaler": scaler and scaler.state_dict()}


@torch.no_grad()
def unpack(
    content: Content, tunable: TunableModel, optimizer: torch.optim.Optimizer, best: dict[str, Tensor], run: dict, scaler: Any = None
) -> Progress:
    """Restore the state that `packed` returned. Raises ApetError, before any change, if it belongs to another run."""
    tensors, state = content
    _check_run(state["run"], run)
    for kind, expected in (("trainable", tunable.trainable), ("best", best)):
        _check_shapes({n.removeprefix(f"{kind}."): t for n, t in tensors.items() if n.startswith(f"{kind}.")}, expected, kind)
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "trainable":
            tunable.trainable[name].copy_(value)
        elif kind == "best":
            best[name].copy_(value)
        elif kind == "optimizer":
            index, slot = name.split(".")
            slots.setdefault(int(index), {})[slot] = value
    tunable.trajectory[:] = tensors["trajectory"].unbind() if "trajectory" in tensors else []
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    if scaler and state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    tunable.write()
    progress = Progress(**state["progress"])
    progress.history = [(step, loss) for step, loss in progress.history]  # JSON turns tuples into lists
    progress.pilot = [(rate, loss) for rate, loss in progress.pilot]
    return progress


def _check_run(saved: dict, run: dict) -> None:
    differ = [name for name in {**saved, **run} if saved.get(name) != run.get(name)]
    if differ:
        differences = ", ".join(f"{name} was {saved.get(name)} and is now {run.get(name)}" for name in differ)
        raise ApetError(f"the checkpoint belongs to another run: {differences}", force=True)


def _check_shapes(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor], kind: str) -> None:
    saved_shapes, expected_shapes = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (saved, expected))
    differ = sorted(name for name in {**saved_shapes, **expected_shapes} if saved_shapes.get(name) != expected_shapes.get(name))
    if differ:
        name = differ[0]
        difference = f"{kind} tensor {name} had shape {saved_shapes.get(name)} and now has {expected_shapes.get(name)}"
        raise ApetError(f"the checkpoint belongs to another run: {difference}", force=True)
