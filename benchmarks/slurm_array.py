"""Requeue one job of a Slurm array in the middle of a run, and compare the rows of the study with the rows of one process.

The script starts Slurm's daemons on this machine, with a configuration and state in a temporary folder (Debian: slurm-wlm and a running
munge; needs root). It submits docs/howto/study.sbatch as an array of four tasks. It requeues one task when all four compute and a
checkpoint exists.

The last line is {"figures": {...}}: `rows_lost` and `rows_different` against one process, `runs_recomputed` that had been finished when the
task was requeued, and the number of times that Slurm started the requeued task.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kill_resume import compared, finished_at, rows

ROOT = Path(__file__).resolve().parents[1]
STUDY = """
name: array
defaults: {kind: train, model: mini-t5-240k, task: mini-sentiment, examples: 32, early_stop: false, steps: 3000, batch: 8}
grid: [{method: apet, k: [4, 8, 16, 32], position_seed: [0, 1]}]
"""
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000
PartitionName=main Nodes={host} Default=YES State=UP
"""


def call(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Run Slurm on this machine while the block lasts."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=socket.gethostname(), folder=folder))
    os.environ["SLURM_CONF"] = str(config)
    daemons = [subprocess.Popen([name, "-D"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for name in ("slurmctld", "slurmd")]
    try:
        wait(lambda: "idle" in subprocess.run(["sinfo", "-h"], capture_output=True, text=True).stdout, "Slurm starts")
        yield
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait()


def wait(condition, what: str, seconds: float = 600) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise SystemExit(f"waited {seconds:g} s for this: {what}")
        time.sleep(0.2)


def running(job: str) -> list[str]:
    """Return the tasks of an array that run."""
    return re.findall(rf"{job}_(\d+) R", call("squeue", "-h", "-r", "-o", "%i %t"))


def measure(folder: Path) -> dict[str, int]:
    study, command = folder / "array.yaml", [sys.executable, str(ROOT / "cli.py"), "study"]
    study.write_text(STUDY)
    call(*command, str(study), "--out", str(folder / "whole"))
    whole = rows(folder / "whole" / "array")
    print(f"one process: {len(whole)} runs")
    with slurm(folder / "slurm"):
        root = folder / "parts" / "array"
        log = folder / "task-%a.log"
        script = ["--chdir", str(ROOT), "--output", str(log), "docs/howto/study.sbatch", str(study), "--out", str(root.parent)]
        job = call("sbatch", "--parsable", *script).strip()
        wait(lambda: list(root.glob("*/checkpoint.safetensors")) and len(running(job)) == 4, "four tasks run and one has a checkpoint")
        before, task = finished_at(root), running(job)[0]
        call("scontrol", "requeue", f"{job}_{task}")
        print(f"requeued task {task} with {len(before)} runs finished")
        wait(lambda: job not in call("squeue", "-h", "-r"), "the array ends")
        starts = Path(str(log).replace("%a", task)).read_text().count("study array:")
    after = finished_at(root)
    recomputed = sum(after.get(name) != stamp for name, stamp in before.items())
    return {"requeued_task_starts": starts, "runs_recomputed": recomputed, **compared(whole, rows(root))}


def main() -> None:
    from machine import describe

    missing = [name for name in ("sbatch", "slurmctld", "slurmd") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        raise SystemExit(f"slurm_array needs root and Slurm on this machine ({', '.join(missing) or 'not root'})")
    os.environ |= {"HF_HUB_OFFLINE": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder))
    print(json.dumps({"figures": figures, **describe()}))


if __name__ == "__main__":
    main()
