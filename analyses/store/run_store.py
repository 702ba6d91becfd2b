"""The store: one folder a run, rows as JSON lines, arrays as safetensors, and a DONE file with their checksums.

    results/<study>/<run id>/  spec.json  env.json  rows.jsonl  arrays.safetensors  checkpoint.safetensors  DONE
    results/<study>/journal.jsonl      what is known of whole runs, made anew where it is lost (analyses.store.journal)
    results/<study>/.claims/<run id>   there while a process computes the run (analyses.store.locks)

A run counts only with a DONE whose checksums hold, and DONE is written last, by a rename: whatever is killed leaves
either a whole run or one that is done again. A run that failed is whole, too: its one row says why. Timings go to env.json,
never into rows, so rows compare bitwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyses.specs import KINDS
from analyses.store.journal import Journal
from analyses.store.locks import claim
from analyses.store.rows import VARYING, Row, from_json, to_json
from apet.errors import ApetError, UsageError
from apet.files import write_whole, writing

DONE, FAILED = STATES = ("done", "failed")  # of a whole run
FORMAT = 7  # of a run's files: raised when older ones cannot be read
VERSIONS = {name: kind.version for name, kind in KINDS.items()}
_FILES = ("spec.json", "rows.jsonl", "arrays.safetensors")


class Damaged(ApetError):
    """A file of a run is not what was written."""


@dataclass(frozen=True)
class Summary:
    """A run without its curves and arrays: its spec, the columns that all of its rows share, their (quantity, split) -> (value,
    standard error) where both are but numbers, None for what is not one, and what it took."""

    spec: dict
    common: dict[str, Any]
    scores: dict[tuple[str, str | None], tuple[Any, Any]]
    env: dict


class Store:
    """The runs of one study under `root`."""

    def __init__(self, root: Path):
        self.root = root
        self._journal = Journal(root / "journal.jsonl")
        self._looked_at = False

    def folder(self, run_id: str) -> Path:
        return self.root / run_id

    def claim(self, run_id: str) -> AbstractContextManager[None]:
        """Compute the run alone while the block lasts; raises `analyses.store.locks.Held` if another process does."""
        self._refuse_older()
        return claim(self.root / ".claims" / run_id)

    def state(self, run_id: str) -> str | None:
        """DONE or FAILED for a whole run of its kind's present version, None where there is none."""
        stamp = _stamp(self.folder(run_id))
        if stamp is None:
            return None
        entry = self._journal.entry(run_id)
        if entry is None or entry.stamp != stamp:
            self._journal.refresh()
            entry = self._journal.entry(run_id)
        if entry is not None and entry.stamp == stamp and entry.state in STATES:
            return entry.state
        return self._verified(run_id, stamp)

    def done(self, run_id: str) -> bool:
        """Whether the run is whole and did not fail."""
        return self.state(run_id) == DONE

    def changed(self, run_id: str) -> int:
        """When anything last appeared in the run's folder (ns by the file system's clock), 0 if there is none."""
        try:
            return self.folder(run_id).stat().st_mtime_ns
        except OSError:
            return 0

    def now(self) -> int:
        """The file system's clock (ns)."""
        claims = self.root / ".claims"
        with writing(self.root):
            claims.mkdir(parents=True, exist_ok=True)
            os.utime(claims)
            return claims.stat().st_mtime_ns

    def commit(self, run_id: str, spec: dict, rows: list[Row], arrays: dict[str, np.ndarray], env: dict, state: str = "done") -> None:
        """Write a run's files, then DONE; an older state of the same run is replaced. WriteError where that cannot be."""
        from safetensors.numpy import save

        folder = self.folder(run_id)
        files = {
            "spec.json": json.dumps(spec, indent=1).encode(),
            "rows.jsonl": "".join(json.dumps(to_json(row)) + "\n" for row in rows).encode(),
            "arrays.safetensors": save({name: np.ascontiguousarray(a) for name, a in arrays.items()}),
        }
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "DONE").unlink(missing_ok=True)
        for name, content in {**files, "env.json": json.dumps(env, indent=1).encode()}.items():
            write_whole(folder / name, content)
        about = {"format": FORMAT, "version": VERSIONS.get(spec["kind"]), "state": state}
        about["sums"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        write_whole(folder / "DONE", json.dumps(about, indent=1).encode())
        stamp = _stamp(folder)
        if stamp is not None:
            self._journal.note(run_id, state, stamp, _summary(spec, rows, env))
        for path in (*folder.glob("checkpoint*"), *folder.glob(".*.tmp")):  # and what a kill left
            path.unlink()

    def forget(self, run_id: str) -> None:
        shutil.rmtree(self.folder(run_id), ignore_errors=True)

    def rows(self, run_id: str) -> list[Row]:
        return [from_json(json.loads(line)) for line in self._read(run_id, "rows.jsonl").splitlines()]

    def arrays(self, run_id: str) -> dict[str, np.ndarray]:
        from safetensors.numpy import load

        return load(self._read(run_id, "arrays.safetensors"))

    def spec(self, run_id: str) -> dict:
        return json.loads(self._read(run_id, "spec.json"))

    def env(self, run_id: str) -> dict:
        """Timings, versions and the like: what is not the run's result."""
        return json.loads((self.folder(run_id) / "env.json").read_bytes())

    def run_ids(self, state: str = "done") -> list[str]:
        """Whole runs of this state, sorted."""
        try:
            with os.scandir(self.root) as found:
                names = sorted(each.name for each in found if each.is_dir() and not each.name.startswith("."))
        except FileNotFoundError:
            return []
        self._refuse_older()
        self._journal.refresh()
        return [name for name in names if self.state(name) == state]

    def summaries(self) -> Iterator[tuple[str, Summary]]:
        """Whole runs that did not fail, in the order of `run_ids`, by what can be said of each in a line of the journal."""
        for run_id, content in self._journal.contents(self.run_ids()):
            if content is None:
                content = _summary(self.spec(run_id), self.rows(run_id), self.env(run_id))
            scores = {(quantity, split): (value, stderr) for quantity, split, value, stderr in content["rows"]}
            yield run_id, Summary(content["spec"], content["common"], scores, content["env"])

    def _verified(self, run_id: str, stamp: str) -> str | None:
        """The state of a run whose every checksum holds, noted for the next time."""
        try:
            about = self._about(run_id)
            spec = self.spec(run_id)
            if (about["format"], about["version"]) != (FORMAT, VERSIONS.get(spec["kind"])) or about["state"] not in STATES:
                return None
            self._read(run_id, "arrays.safetensors")
            self._journal.note(run_id, about["state"], stamp, _summary(spec, self.rows(run_id), self.env(run_id)))
        except (OSError, KeyError, TypeError, ValueError, Damaged):
            return None
        return about["state"]

    def _refuse_older(self) -> None:
        """Look at any one whole run, once. Raise UsageError if an older version wrote it: its identity is not that of today."""
        if self._looked_at:
            return
        first = next(self.root.glob("*/DONE"), None)
        self._looked_at = first is not None
        if first is not None:
            with suppress(OSError, ValueError, TypeError):
                if self._about(first.parent.name).get("format", 0) < FORMAT:
                    raise UsageError(
                        f"{self.root} holds runs of an earlier version of this program, which this one cannot read: take another folder"
                    )

    def _about(self, run_id: str) -> dict:
        return json.loads((self.folder(run_id) / "DONE").read_bytes())

    def _read(self, run_id: str, name: str) -> bytes:
        """A file of a whole run, as it was written. Damaged if it is not; the run then no longer counts, and a new start redoes it."""
        path = self.folder(run_id) / name
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == self._about(run_id)["sums"][name]:
                return content
        except (OSError, ValueError, KeyError, TypeError):
            pass  # another process may be about to replace it
        stamp = _stamp(self.folder(run_id))
        if stamp is not None:
            self._journal.note(run_id, "damaged", stamp, {})
        raise Damaged(f"{path} is not what was written (its checksum differs): start again what made it, and that run is redone")


def _summary(spec: dict, rows: list[Row], env: dict) -> dict[str, Any]:
    """What the journal keeps: the scalar rows, the columns that they share once, and the cost."""
    plain = [to_json(row) for row in rows if row.is_scalar]
    common = {name: value for name, value in plain[0].items() if name not in VARYING} if plain else {}
    return {
        "spec": spec,
        "common": common,
        "rows": [(row["quantity"], row["split"], row["value"], row["stderr"]) for row in plain],
        "env": {name: env[name] for name in ("seconds", "peak_gb", "data_fingerprint") if name in env},
    }


def _stamp(folder: Path) -> str | None:
    """Sizes and times of change of a run's files, as these versions read them; None where one is missing."""
    try:
        found = [os.stat(f"{folder}/{name}") for name in ("DONE", *_FILES)]
    except OSError:
        return None
    versions = "format {} {}".format(FORMAT, " ".join(f"{kind}:{version}" for kind, version in VERSIONS.items()))
    return " ".join((versions, *(f"{each.st_size}:{each.st_mtime_ns}" for each in found)))
