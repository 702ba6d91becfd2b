"""Accuracy of `train --dry-run`: peak memory and seconds per step, estimated and then measured, for three sizes.

Both are separate commands with one thread, one after the other. The measured values come from the run's env.json. The last line is
{"figures": {...}} with `worst_memory` and `worst_step`, the largest of |estimated / measured - 1| over the sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[1]
SIZES = ("mini-t5-240k", "mini-t5-790k", "mini-t5-6m")


def command(*arguments: str) -> dict[str, Any]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "cli.py", "train", "--task", "mini-nli", "--k", "1000", "--device", "cpu", "--json", *arguments],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def measure(steps: int, say) -> dict[str, float]:
    figures: dict[str, float] = {}
    say(f"{'model':14} {'GB estimated':>13} {'measured':>9} {'s/step estimated':>17} {'measured':>9}")
    with tempfile.TemporaryDirectory() as out:
        for model in SIZES:
            arguments = ("--model", model, "--steps", str(steps), "--out", out)
            before = command(*arguments, "--dry-run")
            done = command(*arguments)
            after = json.loads((Path(done["results"]) / "env.json").read_text())
            after["step_seconds"] = after["parts"]["steps"] / done["steps"]
            say(f"{model:14} {before['peak_gb']:13.3f} {after['peak_gb']:9.3f} {before['step_seconds']:17.4f} {after['step_seconds']:9.4f}")
            figures[f"memory_{model}"] = before["peak_gb"] / after["peak_gb"]
            figures[f"step_{model}"] = before["step_seconds"] / after["step_seconds"]
    worst = {f"worst_{kind}": max(abs(v - 1) for name, v in figures.items() if name.startswith(kind)) for kind in ("memory", "step")}
    return figures | worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs, less than 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    from machine import describe

    say = (lambda text: None) if options.json else print
    print(json.dumps({"figures": measure(20 if options.quick else 200, say), **describe()}))


if __name__ == "__main__":
    main()
