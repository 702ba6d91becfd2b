"""The kinds of run: each turns a spec and its inputs into rows and arrays."""

from __future__ import annotations

from analyses.runs.predict import predict_run
from analyses.runs.slice import slice_run
from analyses.runs.spectrum import spectrum_run
from analyses.runs.train import train_run

RUNS = {"train": train_run, "predict": predict_run, "spectrum": spectrum_run, "slice": slice_run}
