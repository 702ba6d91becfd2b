"""The journal of a store: one line a run that was found whole, so that a hundred thousand need not be opened again.

    run id, state, stamp, checksum of the rest, JSON of the run's spec, its scalar rows, its cost

A line speaks for a run as long as the stamp, the sizes and times of change of the run's files, is that of the files there.
The journal can be deleted: what it does not hold is read from the run's folder and noted anew. Processes append whole
lines; one that was cut is ignored.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Entry:
    """What a line says of a run before its JSON: its state, its files' stamp, and where the line lies (bytes)."""

    state: str
    stamp: str
    start: int
    length: int


class Journal:
    """The lines of the file `path` by run id; the last one counts."""

    def __init__(self, path: Path):
        self.path = path
        self._entries: dict[str, Entry] = {}
        self._read_to = 0

    def entry(self, run_id: str) -> Entry | None:
        """What is noted of the run; lines that other processes have added since the last `refresh` may be missing."""
        return self._entries.get(run_id)

    def refresh(self) -> None:
        """Read the lines that were added since."""
        try:
            size = self.path.stat().st_size
        except OSError:
            size = 0
        if size < self._read_to:  # deleted, or made anew
            self._entries.clear()
            self._read_to = 0
        if size == self._read_to:
            return
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # being written
                fields = line.split(b"\t", 4)
                if len(fields) == 5:
                    run_id, state, stamp = (field.decode(errors="replace") for field in fields[:3])
                    self._entries[run_id] = Entry(state, stamp, self._read_to, len(line))
                self._read_to += len(line)

    def note(self, run_id: str, state: str, stamp: str, content: dict[str, Any]) -> None:
        """Append a line; where that cannot be (a full disk, a store that is read-only) nothing is lost but time."""
        text = json.dumps(content, separators=(",", ":")).encode()
        line = b"\n%b\t%b\t%b\t%d\t%b\n" % (run_id.encode(), state.encode(), stamp.encode(), zlib.crc32(text), text)
        with suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)

    def contents(self, run_ids: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Each run's id and the JSON of its line, None where the line is not whole or not there."""
        with ExitStack() as stack:
            file = stack.enter_context(self.path.open("rb")) if self._entries else None
            for run_id in run_ids:
                entry = self._entries.get(run_id)
                yield run_id, _content(file, entry) if file is not None and entry is not None else None


def _content(file: BinaryIO, entry: Entry) -> dict[str, Any] | None:
    file.seek(entry.start)
    *_, checksum, text = file.read(entry.length).split(b"\t", 4)
    whole = checksum.isdigit() and zlib.crc32(text.rstrip(b"\n")) == int(checksum)
    return json.loads(text) if whole else None
