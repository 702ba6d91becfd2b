"""How long `make demo` takes once it is set up, and how much memory, beside the demo of another checkout.

    python benchmarks/demo.py --beside FOLDER     # a clone at the commit to compare with; its demo runs in this one's environment

Both are run as a user runs them, two jobs, one after the other, each into an empty folder of results. Last line: {"figures": {...}}.
`--quick` takes the studies demo-quick.
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
LOOK = 0.5  # seconds between looks at the memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="a checkout of the project whose demo is timed as well")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="only the last line")
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
    """(seconds, most GB of all its processes together) of a study and its report."""
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
    """GB that a process and its children hold; memory that they share counts for each."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.Error:  # one of them has just ended
        pass
    return total / 1e9


if __name__ == "__main__":
    main()
