"""Test whether a training run that is killed and restarted is bitwise equal to an uninterrupted run.

The run tunes 200 entries of mini-t5-240k on generated sentences: a learning-rate search, batches in two parts, the best state kept, a
checkpoint after every step, one thread. Each run is killed (SIGKILL) once at a random moment and restarted. Its final entries and its
history must equal the final entries and the history of the uninterrupted run. The last line is {"figures": {...}}: `different` counts runs
that ended differently, and `in_pilots` runs that were killed before their first checkpoint.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
K, LAST = 200, "end.safetensors"


def run(folder: Path) -> None:
    """Train to the end in `folder`, resuming from its stored state, and write the result."""
    from safetensors.torch import save_file
    from torch import tensor

    from apet.methods import PlacementConfig, make_tunable
    from apet.models import load_model
    from apet.scoring import scorer_of
    from apet.tasks import TASKS, generate
    from apet.training import TrainOptions, train

    rows, loaded = generate("train", 160), load_model("mini-t5-240k")
    mounted = make_tunable("apet", loaded.model, PlacementConfig(K))
    scorer = scorer_of(loaded, TASKS["mini-sentiment"])
    options = TrainOptions(lr=0.003, steps=150, batch=8, check=10, patience=2, accumulate=2, find_lr=True)
    checkpoint = folder / "checkpoint.safetensors"
    progress = train(mounted.model, mounted, scorer, rows[32:], rows[:32], options, checkpoint, keep_best=True, checkpoint_every=0)
    end = {"z": mounted.trainable["z"].detach(), "history": tensor(progress.history).double(), "pilot": tensor(progress.pilot).double()}
    save_file(end, folder / LAST)


def start(folder: Path) -> Any:
    """Start `run` in a separate process that inherits the imports."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(folder,))
    process.start()
    return process


def finish(folder: Path) -> float:
    """Run to the end, and return the seconds."""
    began, process = time.monotonic(), start(folder)
    process.join()
    if process.exitcode:
        raise SystemExit(f"the run in {folder} ended with exit code {process.exitcode}")
    return time.monotonic() - began


def killed(folder: Path, seconds: float) -> bool:
    """Start a run and kill it after `seconds`. Return whether it was still alive."""
    process = start(folder)
    process.join(seconds)
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive


def reached(folder: Path) -> int | None:
    """Return the step of the newest checkpoint, None before the first checkpoint."""
    from apet.training import load_checkpoint

    content = load_checkpoint(folder / "checkpoint.safetensors")
    return content and content[1]["progress"]["step"]


def same(a: Path, b: Path) -> bool:
    import torch
    from safetensors.torch import load_file

    first, second = load_file(a / LAST), load_file(b / LAST)
    return all(torch.equal(first[name], second[name]) for name in first)


def measure(kills: int, root: Path, say) -> dict[str, float]:
    import numpy as np

    whole = root / "whole"
    seconds = finish(whole)
    random, points, different = np.random.default_rng(0), [], 0
    say(f"uninterrupted: {reached(whole)} steps, {seconds:.1f} s\n{'kill':>4} {'after s':>8} {'at step':>8}  result")
    while len(points) < kills:
        folder, after = root / str(len(points)), seconds * random.random()
        if not killed(folder, after):
            continue  # the run was faster than the uninterrupted one
        points.append(reached(folder))
        finish(folder)
        equal = same(whole, folder)
        different += not equal
        say(f"{len(points):4} {after:8.2f} {'pilots' if points[-1] is None else points[-1]:>8}  {'same' if equal else 'DIFFERENT'}")
    size = (whole / "checkpoint.safetensors").stat().st_size
    return {"kills": kills, "different": different, "in_pilots": points.count(None), "k": K, "checkpoint_bytes": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three kills, less than 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    import accelerate  # noqa: F401 (the processes inherit all imports from this one)
    import peft  # noqa: F401
    from machine import describe

    import apet.training.loop
    import apet.training.rate_search

    apet.training.rate_search.PILOT_STEPS = 8  # otherwise most kills would meet a pilot run

    with tempfile.TemporaryDirectory() as root:
        figures = measure(3 if options.quick else 20, Path(root), (lambda line: None) if options.json else print)
    print(json.dumps({"figures": figures, **describe()}))


if __name__ == "__main__":
    main()
