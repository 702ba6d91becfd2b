"""Time and memory of `make demo` after its setup, compared with the demo of another checkout.

    python benchmarks/demo.py --beside FOLDER     # a clone at the commit to compare with; its demo runs in this environment

Both demos run as a user runs them: two jobs, one demo after the other, each into an empty results folder. `--quick` takes the study
demo-quick. The last line is {"figures": {...}}.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
LOOK = 0.5  # seconds between measurements of the memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="another checkout of the project, whose demo is also timed")
    parser.add_argument("--quick", action="store_true", help="the study demo-quick")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    from benchmarks.machine import describe

    study = "demo-quick" if options.quick else "demo"
    seconds, memory = demo(Path(__file__).resolve().parents[1], study, options.json)
    figures = {"demo_seconds": seconds, "demo_peak_gb": memory}
    if options.beside:
        other, _ = demo(options.beside.resolve(), study, options.json)
        figures |= {"demo_seconds_beside": other, "demo_seconds_over_beside": seconds / other}
    print(json.dumps({"figures": figures, **describe()}))


def demo(root: Path, study: str, quiet: bool) -> tuple[float, float]:
    """Return the seconds that a study and its report take, and the largest total memory of all its processes in GB."""
    started, most = time.perf_counter(), 0.0
    with tempfile.TemporaryDirectory() as out:
        for arguments in (["study", f"studies/{study}.yaml", "--jobs", "2", "--out", out], ["report", f"{out}/{study}"]):
            sink = subprocess.DEVNULL if quiet else None
            offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
            process = subprocess.Popen([sys.executable, "cli.py", *arguments], cwd=root, env=offline, stdout=sink, stderr=sink)
            while process.poll() is None:
                most = max(most, resident(process.pid))
                time.sleep(LOOK)
            if process.returncode:
                raise SystemExit(f"{root}: the demo ended with exit code {process.returncode}")
    return time.perf_counter() - started, most


def resident(pid: int) -> float:
    """Return the GB that a process and its children hold. Shared memory counts once per process."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.Error:  # a process has just ended
        pass
    return total / 1e9


if __name__ == "__main__":
    main()
