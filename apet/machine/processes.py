"""Processes, precision and trackers, by accelerate.

Every process holds the whole model and a share of each batch. Decisions, such as when to stop or which checkpoint to resume, are made by
the main process or by all processes together. So a process never waits for another process that has left the loop.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from apet.errors import UsageError, lookup
from apet.training import PRECISIONS

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerator_for(device: str, precision: str, track: str | None = None, logs: Path | None = None) -> Accelerator:
    """Return an Accelerator for one run on `device`. `precision` is no, bf16 or fp16, and `track` is one of accelerate's trackers.

    Raises UsageError for fp16 on the CPU, for an unknown precision or tracker, and for a tracker that is not installed.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    lookup(PRECISIONS, precision, "precision")
    if precision == "fp16" and torch.device(device).type == "cpu":
        raise UsageError("float16 needs a GPU: on the CPU use bfloat16, which needs no loss scaling, or float32")
    if track is not None:
        _check_tracker(track)
    AcceleratorState._reset_state()  # otherwise every later run of this process would have the precision of the first run
    return Accelerator(cpu=torch.device(device).type == "cpu", mixed_precision=precision, log_with=track, project_dir=logs)


def _check_tracker(name: str) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    lookup(LOGGER_TYPE_TO_CLASS, name, "tracker")
    if name in LoggerType and name not in map(str, get_available_trackers()):  # a custom tracker that is registered is available
        raise UsageError(f"the tracker {name} is not installed: pip install -e '.[track]' installs tensorboard")


def is_main_process() -> bool:
    """Return whether this is the process that writes files: the only process, or the first one that `accelerate launch` started."""
    return os.environ.get("RANK", "0") == "0"


def world_size() -> int:
    """Return the number of processes that `accelerate launch` or torchrun started, 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def from_main_process(device: str, value: Any) -> Any:
    """Return the main process's `value` in every process. All processes must call this function, and it waits for all of them."""
    return value if world_size() == 1 else broadcast(accelerator_for(device, "no"), value)


@contextmanager
def tracking(accelerator: Accelerator, settings: dict[str, Any]) -> Iterator[None]:
    """Send the values of `accelerator.log` to the tracker, if there is one, inside the `with` block. `settings` are logged first."""
    if accelerator.log_with:
        accelerator.init_trackers("train", config=settings)
    try:
        yield
    finally:
        for tracker in accelerator.trackers if accelerator.log_with else []:
            tracker.finish()


def broadcast(accelerator: Accelerator, value: Any) -> Any:
    """Return the main process's `value` in every process."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0] if accelerator.num_processes > 1 else value


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Return whether `flag` is set in any process."""
    return bool(sum_over_processes(accelerator, torch.tensor(float(flag), device=accelerator.device)))


def sum_over_processes(accelerator: Accelerator, tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of the processes' tensors, which is bitwise equal in all processes."""
    if accelerator.num_processes == 1:
        return tensor
    summed = accelerator.reduce(tensor, "sum")
    assert isinstance(summed, torch.Tensor)
    return summed


def gather_rows(accelerator: Accelerator, rows: torch.Tensor) -> torch.Tensor:
    """Return the rows (n, ...) of all processes, concatenated. Processes with fewer rows than the others are padded with rows of zeros."""
    if accelerator.num_processes == 1:
        return rows
    gathered = accelerator.gather(accelerator.pad_across_processes(rows))
    assert isinstance(gathered, torch.Tensor)
    return gathered
