"""Precision, trackers, and several processes as one."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, register_tracker_class
from safetensors.torch import load_file
from train_cases import OPTIONS, ROWS, ready

from apet.errors import UsageError
from apet.machine.processes import accelerator_for
from apet.training.loop import train

ROOT = Path(__file__).resolve().parents[3]


def test_float16_on_the_cpu_is_a_usage_error():
    with pytest.raises(UsageError, match="float16 needs a GPU: on the CPU use bfloat16"):
        train(*ready(), ROWS, ROWS, replace(OPTIONS, precision="fp16"), Path("nowhere"), keep_best=False)


def test_two_runs_of_a_process_may_have_two_precisions():
    for precision in ("no", "bf16", "no"):
        accelerator = accelerator_for("cpu", precision)
        with accelerator.autocast():
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)


def test_trackers_that_are_not_there_are_usage_errors(monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(UsageError, match=r"tensorboard is not installed: pip install -e '.\[track\]'"):
        accelerator_for("cpu", "no", "tensorboard")
    with pytest.raises(UsageError, match="unknown tracker 'tensorbord': did you mean tensorboard"):
        accelerator_for("cpu", "no", "tensorbord")


class Notebook(GeneralTracker):
    name = "notebook"
    requires_logging_directory = True
    written: list = []  # noqa: RUF012 (accelerate makes the instance)

    def __init__(self, run_name, logging_dir, **kwargs):
        super().__init__()
        self.written.clear()
        self.written.append(("made", Path(logging_dir)))

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.written.append(("settings", values))

    def log(self, values, step=None, **kwargs):
        self.written.append((step, values))

    def finish(self):
        self.written.append(("finished", None))


@pytest.fixture
def notebook():
    known = dict(LOGGER_TYPE_TO_CLASS)
    register_tracker_class(Notebook)
    yield Notebook.written
    LOGGER_TYPE_TO_CLASS.clear()
    LOGGER_TYPE_TO_CLASS.update(known)


def test_a_tracker_is_told_every_look_and_the_end(notebook, tmp_path):
    progress = train(*ready(), ROWS, ROWS, OPTIONS, tmp_path / "c", keep_best=False, track="notebook")
    assert notebook[0] == ("made", tmp_path / "logs")
    assert notebook[1][1]["lr"] == OPTIONS.lr
    assert notebook[-1] == ("finished", None)
    assert [(step, values["watched_loss"]) for step, values in notebook[2:-1]] == progress.history[1:]
    assert all(values["learning_rate"] > 0 for _, values in notebook[2:-1])


def test_without_a_tracker_nothing_is_written(tmp_path):
    train(*ready(), ROWS, ROWS, OPTIONS, tmp_path / "new" / "c", keep_best=False)
    assert not list((tmp_path / "new").iterdir())


def test_tensorboard_gets_its_files(tmp_path):
    pytest.importorskip("tensorboard")
    train(*ready(), ROWS, ROWS, OPTIONS, tmp_path / "c", keep_best=False, track="tensorboard", logs=tmp_path / "logs")
    assert list((tmp_path / "logs").rglob("events.out.tfevents*"))


PROGRAM = """
import os, sys
from dataclasses import replace
from pathlib import Path
import torch
from safetensors.torch import save_file
torch.set_num_threads(1)
sys.path[:0] = ["tests/apet", "."]
from train_cases import ANSWER_ROWS, ANSWERS, OPTIONS, ready, state
from apet.training.loop import train
out, rank = Path(sys.argv[1]), os.environ.get("RANK", "0")
model, mounted, scorer = ready("lora", task=ANSWERS)
torch.manual_seed(int(rank))
# A low rate: where training is chaotic, rounding grows.
options = replace(OPTIONS, lr=1e-4, batch=7, accumulate=2, patience=1, find_lr=True, steps=40)
progress = train(model, mounted, scorer, ANSWER_ROWS[8:], ANSWER_ROWS[:8], options, out / "c.safetensors", True, checkpoint_every=0)
save_file({**state(mounted), "history": torch.tensor(progress.history), "pilot": torch.tensor(progress.pilot)}, out / f"end{rank}")
"""


@pytest.mark.long
def test_two_processes_do_what_one_does(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, start in (("one", [sys.executable]), ("two", launch)):
        (tmp_path / name).mkdir()
        subprocess.run([*start, str(program), str(tmp_path / name)], cwd=ROOT, check=True, timeout=300)
    one, two, other = (load_file(tmp_path / path) for path in ("one/end0", "two/end0", "two/end1"))
    assert {p.name for p in (tmp_path / "two").iterdir()} == {"c.safetensors", "c.previous.safetensors", "end0", "end1"}
    for name in one:
        assert torch.equal(two[name], other[name])
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one["history"], two["history"], rtol=1e-5, atol=0)
