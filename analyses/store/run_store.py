"""The store: one folder per run with rows as JSON lines, arrays as safetensors, and a DONE file with their checksums.

    results/<study>/<run id>/  spec.json  env.json  rows.jsonl  arrays.safetensors  checkpoint.safetensors  DONE
    results/<study>/journal.jsonl      index of complete runs, made again if it is lost (analyses.store.journal)
    results/<study>/.claims/<run id>   exists while a process computes the run (analyses.store.locks, analyses.store.leases)

A run is complete if it has a DONE file whose checksums match. DONE is written last, by a rename, so a kill leaves either a complete run or
a run that is computed again. A failed run is complete, too: its only row gives the reason. Timings go to env.json and never into rows, so
rows can be compared bitwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from analyses.specs import KINDS
from analyses.store.journal import Journal
from analyses.store.leases import Leases, on_network
from analyses.store.locks import claim
from analyses.store.rows import VARYING, Row, from_json, to_json
from apet.errors import ApetError, UsageError
from apet.files import write_whole, writing

DONE, FAILED = STATES = ("done", "failed")  # states of a complete run
LEASED = "leases"  # file in the folder of claims if they are leases
FORMAT = 7  # version of a run's files; increased if older files cannot be read
VERSIONS = {name: kind.version for name, kind in KINDS.items()}
_FILES = ("spec.json", "rows.jsonl", "arrays.safetensors")
_ALL_FILES = (*_FILES, "env.json", "DONE")  # in the order of their writing


class Damaged(ApetError):
    """Raised if the content of a run's file does not match its checksum."""


@dataclass(frozen=True)
class Summary:
    """A run without its curves and arrays.

    spec: the run's spec. common: the columns that all of its rows share. scores: (quantity, split) -> (value, standard error) of its
    scalar rows, None in place of NaN. env: its cost (seconds, peak_gb) and the fingerprint of its data.
    """

    spec: dict
    common: dict[str, Any]
    scores: dict[tuple[str, str | None], tuple[Any, Any]]
    env: dict


class Store:
    """The runs of one study in the folder `root`."""

    def __init__(self, root: Path):
        self.root = root
        self._journal = Journal(root / "journal.jsonl")
        self._claims = root / ".claims"
        self._looked_at = False
        self._leases: Leases | None = None

    def folder(self, run_id: str) -> Path:
        """Return the folder of a run."""
        return self.root / run_id

    def claim(self, run_id: str) -> AbstractContextManager[None]:
        """Claim the run for this process while the block lasts. Raises `analyses.store.locks.Held` if another process holds the claim."""
        self._refuse_older()
        if self._leases is None and ((self._claims / LEASED).exists() or self._networked):
            self.use_leases()
        path = self._claims / run_id
        return claim(path) if self._leases is None else self._leases.claim(path)

    def use_leases(self) -> None:
        """Let all processes, on all machines, claim runs of this store by leases (analyses.store.leases)."""
        self._mark(self._claims / LEASED)
        self._leases = Leases()

    @cached_property
    def _networked(self) -> bool:
        return on_network(self.root)

    @contextmanager
    def marked(self) -> Iterator[Path]:
        """Yield the path of a new file, which exists while the block lasts, so that another machine can tell whether it sees this store."""
        marker = self._claims.resolve() / f"marker-{uuid.uuid4().hex}"
        self._mark(marker)
        try:
            yield marker
        finally:
            marker.unlink(missing_ok=True)

    def _mark(self, marker: Path) -> None:
        with writing(marker):
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()

    def state(self, run_id: str) -> str | None:
        """Return DONE or FAILED for a complete run of the current version of its kind, else None."""
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
        """Return whether the run is complete and did not fail."""
        return self.state(run_id) == DONE

    def changed(self, run_id: str) -> int:
        """Return the modification time of the run's folder in ns of the file system's clock, 0 if the folder does not exist."""
        try:
            return self.folder(run_id).stat().st_mtime_ns
        except OSError:
            return 0

    def now(self) -> int:
        """Return the time of the file system's clock in ns."""
        with writing(self.root):
            self._claims.mkdir(parents=True, exist_ok=True)
            os.utime(self._claims)
            return self._claims.stat().st_mtime_ns

    def commit(self, run_id: str, spec: dict, rows: list[Row], arrays: dict[str, np.ndarray], env: dict, state: str = "done") -> None:
        """Write the files of a run, then DONE. Files of an earlier attempt are replaced. Raises WriteError if a file cannot be written."""
        from safetensors.numpy import save

        files = {
            "spec.json": json.dumps(spec, indent=1).encode(),
            "rows.jsonl": "".join(json.dumps(to_json(row)) + "\n" for row in rows).encode(),
            "arrays.safetensors": save({name: np.ascontiguousarray(a) for name, a in arrays.items()}),
        }
        about = {"format": FORMAT, "version": VERSIONS.get(spec["kind"]), "state": state}
        about["sums"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        self.adopt(run_id, files | {"env.json": json.dumps(env, indent=1).encode(), "DONE": json.dumps(about, indent=1).encode()})
        stamp = _stamp(self.folder(run_id))
        if stamp is not None:
            self._journal.note(run_id, state, stamp, _summary(spec, rows, env))

    def files(self, run_id: str) -> dict[str, bytes]:
        """Return the files of a complete run by name, for `adopt` in another store."""
        return {name: (self.folder(run_id) / name).read_bytes() for name in _ALL_FILES}

    def adopt(self, run_id: str, files: dict[str, bytes]) -> None:
        """Write the files of a complete run, DONE last, over an earlier attempt. Raises WriteError if a file cannot be written."""
        folder = self.folder(run_id)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "DONE").unlink(missing_ok=True)
        for name in _ALL_FILES:
            write_whole(folder / name, files[name])
        for path in (*folder.glob("checkpoint*"), *folder.glob(".*.tmp")):  # a kill leaves the latter
            path.unlink(missing_ok=True)

    def forget(self, run_id: str) -> None:
        """Delete the folder of a run."""
        shutil.rmtree(self.folder(run_id), ignore_errors=True)

    def rows(self, run_id: str) -> list[Row]:
        """Return the rows of a complete run. Raises Damaged if the file does not match its checksum."""
        return [from_json(json.loads(line)) for line in self._read(run_id, "rows.jsonl").splitlines()]

    def arrays(self, run_id: str) -> dict[str, np.ndarray]:
        """Return the arrays of a complete run by name. Raises Damaged if the file does not match its checksum."""
        from safetensors.numpy import load

        return load(self._read(run_id, "arrays.safetensors"))

    def spec(self, run_id: str) -> dict:
        """Return the spec of a complete run as a JSON object. Raises Damaged if the file does not match its checksum."""
        return json.loads(self._read(run_id, "spec.json"))

    def env(self, run_id: str) -> dict:
        """Return timings, versions and other facts about a run that are not its results."""
        return json.loads((self.folder(run_id) / "env.json").read_bytes())

    def run_ids(self, state: str = "done") -> list[str]:
        """Return the sorted ids of the complete runs in this state."""
        try:
            with os.scandir(self.root) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise UsageError(f"{self.root} is a file, and runs are stored in a folder") from None
        self._refuse_older()
        self._journal.refresh()
        return [name for name in names if self.state(name) == state]

    def summaries(self) -> Iterator[tuple[str, Summary]]:
        """Yield the id and summary of every complete run that did not fail, in the order of `run_ids`, from the journal if it has them."""
        for run_id, content in self._journal.contents(self.run_ids()):
            if content is None:
                content = _summary(self.spec(run_id), self.rows(run_id), self.env(run_id))
            scores = {(quantity, split): (value, stderr) for quantity, split, value, stderr in content["rows"]}
            yield run_id, Summary(content["spec"], content["common"], scores, content["env"])

    def _verified(self, run_id: str, stamp: str) -> str | None:
        """Return the state of a run whose checksums all match, and add it to the journal; None for any other run."""
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
        """Raise UsageError if an older version, with other run ids, wrote the store.

        One run is checked, the first that is found, and only once.
        """
        if self._looked_at:
            return
        first = next(self.root.glob("*/DONE"), None)
        self._looked_at = first is not None
        if first is not None:
            with suppress(OSError, ValueError, TypeError):
                if self._about(first.parent.name).get("format", 0) < FORMAT:
                    raise UsageError(
                        f"{self.root} holds runs of an earlier version of this program, which this version cannot read: use another folder"
                    )

    def _about(self, run_id: str) -> dict:
        return json.loads((self.folder(run_id) / "DONE").read_bytes())

    def _read(self, run_id: str, name: str) -> bytes:
        """Return the content of a file of a complete run.

        Raises Damaged if its checksum differs. The run is then no longer complete, and the next start computes it again.
        """
        path = self.folder(run_id) / name
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == self._about(run_id)["sums"][name]:
                return content
        except (OSError, ValueError, KeyError, TypeError):
            pass  # another process may be replacing it
        stamp = _stamp(self.folder(run_id))
        if stamp is not None:
            self._journal.note(run_id, "damaged", stamp, {})
        raise Damaged(f"{path} is damaged (its checksum differs): repeat the command that made it, which computes this run again")


def _summary(spec: dict, rows: list[Row], env: dict) -> dict[str, Any]:
    """Return the content of a journal line: spec, scalar rows, the columns that these rows share, and cost."""
    scalars = [to_json(row) for row in rows if row.is_scalar]
    common = {name: value for name, value in scalars[0].items() if name not in VARYING} if scalars else {}
    return {
        "spec": spec,
        "common": common,
        "rows": [(row["quantity"], row["split"], row["value"], row["stderr"]) for row in scalars],
        "env": {name: env[name] for name in ("seconds", "peak_gb", "data_fingerprint") if name in env},
    }


def _stamp(folder: Path) -> str | None:
    """Return the versions of format and kinds, and sizes and modification times of a run's files; None if a file is missing."""
    try:
        stats = [os.stat(f"{folder}/{name}") for name in ("DONE", *_FILES)]
    except OSError:
        return None
    versions = "format {} {}".format(FORMAT, " ".join(f"{kind}:{version}" for kind, version in VERSIONS.items()))
    return " ".join((versions, *(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)))
