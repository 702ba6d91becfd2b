"""No option was lost when specs began to define the options. Every help page is short and starts with the common options."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cli import app

ROOT = Path(__file__).parent.parent
COMMANDS = typer.main.get_command(app).commands
# The options of each command before specs defined them.
BEFORE = {
    "explain": ("--dry-run --fraction --json --out --target"),
    "export": ("--as --dry-run --json"),
    "figures": ("--dry-run --fraction --json --only --out --target"),
    "intrinsic-dim": (
        "--batch --config --data --device --dry-run --dtype --examples --find-lr --force --fraction --json --k-max "
        "--k-min --lr --measure --model --no-find-lr --no-measure --no-predict --optimizer --out --path --predict "
        "--random-init --resume --runs --scope --seed --set --steps --subspace --target --task --train-seed"
    ),
    "kernels": ("--calibrate --device --dry-run --json"),
    "models": ("--dry-run --json"),
    "pretrain": ("--corpus --device --dry-run --family --force --json --minutes --out --resume --seed --size --source --steps --tokenizer"),
    "report": ("--dry-run --fraction --json --out --target"),
    "slice": (
        "--at --batch --config --curve --data --device --dims --directions --dry-run --examples --force --json --k "
        "--metric --model --numbers --operations --order --out --points --position-seed --random-init --ratio-map "
        "--reach --refine --resume --scope --seed --set --step --task --to --train-seed --unit"
    ),
    "spectrum": (
        "--algorithm --along --at --batch --config --data --device --dry-run --examples --force --json --k "
        "--lanczos-steps --matrix --model --operations --order --out --position-seed --probes --random-init --resume "
        "--samples --scope --seed --set --step --subspace --task --train-seed --unit"
    ),
    "study": ("--data --device --dry-run --force --jobs --json --out --resume --retry-failed --shard"),
    "table": ("--dry-run --json --out --rows --split"),
    "tasks": ("--dry-run --json"),
    "train": (
        "--accumulate --attention --batch --config --data --device --dry-run --dtype --early-stop --examples --find-lr "
        "--force --gradient-checkpointing --json --k --keep-end --lr --matched --max-length --method --model "
        "--no-early-stop --operations --optimizer --order --out --position-seed --random-init --readout --resume "
        "--schedule --scope --seed --set --steps --subspace --task --test --track --train-seed --trajectory --unit "
        "--weights"
    ),
}
SCREENS = 2 * 50  # lines of 120 columns


@pytest.mark.parametrize("command", BEFORE)
def test_no_option_is_lost(command):
    options = {option for parameter in COMMANDS[command].params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert set(BEFORE[command].split()) <= options


@pytest.mark.parametrize("command", BEFORE)
def test_help_fits_two_screens(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = subprocess.run([sys.executable, "cli.py", command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert len(text.splitlines()) <= SCREENS
