"""A slice that is killed at any moment and started again has bitwise the result of an undisturbed slice."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent.parent
SLICE = ["cli.py", "slice", "--model", "mini-t5-130k", "--k", "50", "--dims", "2", "--points", "61", "--examples", "16", "--metric"]


def started(folder: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, *SLICE, "--device", "cpu", "--data", folder, "--out", out]
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kept(out: Path) -> int:
    """Return the number of bytes of losses that an unfinished slice has written."""
    return sum(path.stat().st_size for path in out.glob("slice/*/checkpoint.losses.safetensors"))


@pytest.mark.long
def test_a_slice_killed_at_random_moments_and_started_again_is_bitwise_one_left_alone(folder, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert started(folder, whole).wait(timeout=300) == 0
    killed, draws = 0, random.Random(0)
    for _ in range(2):
        before, process = kept(part), started(folder, part)
        while kept(part) <= before and process.poll() is None:  # losses are written every few seconds
            time.sleep(0.01)
        time.sleep(2 * draws.random())
        process.kill()
        killed += process.wait() < 0  # 0: the run was done already
    assert killed
    assert started(folder, part).wait(timeout=300) == 0
    (name,) = (each.parent.name for each in whole.glob("slice/*/DONE"))
    for file in ("arrays.safetensors", "rows.jsonl"):
        assert (part / "slice" / name / file).read_bytes() == (whole / "slice" / name / file).read_bytes()
    assert not kept(part)
