"""The journal of a store: one line per complete run, so that a store of a hundred thousand runs need not open every folder again.

A line has these fields, separated by tabs:

    run id, state, stamp, checksum of the JSON, JSON of the run's spec, scalar rows and cost

The stamp holds the sizes and modification times of the run's files. A line is valid while its stamp equals the stamp of the files on disk.
The journal can be deleted: missing lines are made again from the run folders. Processes append whole lines; a truncated line is ignored.
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
    """The fields of a line before its JSON: state and stamp of the run, and offset and length of the line in bytes."""

    state: str
    stamp: str
    start: int
    length: int


class Journal:
    """The lines of the file `path` by run id. The last line of a run counts."""

    def __init__(self, path: Path):
        self.path = path
        self._entries: dict[str, Entry] = {}
        self._read_to = 0

    def entry(self, run_id: str) -> Entry | None:
        """Return the entry of the run, or None. Lines that other processes added after the last `refresh` may be missing."""
        return self._entries.get(run_id)

    def refresh(self) -> None:
        """Read the lines that were added after the last `refresh`."""
        try:
            size = self.path.stat().st_size
        except OSError:
            size = 0
        if size < self._read_to:  # the file was deleted or made again
            self._entries.clear()
            self._read_to = 0
        if size == self._read_to:
            return
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # another process is writing this line
                fields = line.split(b"\t", 4)
                if len(fields) == 5:
                    run_id, state, stamp = (field.decode(errors="replace") for field in fields[:3])
                    self._entries[run_id] = Entry(state, stamp, self._read_to, len(line))
                self._read_to += len(line)

    def note(self, run_id: str, state: str, stamp: str, content: dict[str, Any]) -> None:
        """Append a line. Errors (a full disk, a read-only store) are ignored: without the line, the run's folder is read again."""
        text = json.dumps(content, separators=(",", ":")).encode()
        line = b"\n%b\t%b\t%b\t%d\t%b\n" % (run_id.encode(), state.encode(), stamp.encode(), zlib.crc32(text), text)
        with suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)

    def contents(self, run_ids: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Yield each run id and the JSON of its line; None if the line is missing or truncated."""
        with ExitStack() as stack:
            file = stack.enter_context(self.path.open("rb")) if self._entries else None
            for run_id in run_ids:
                entry = self._entries.get(run_id)
                yield run_id, _content(file, entry) if file is not None and entry is not None else None


def _content(file: BinaryIO, entry: Entry) -> dict[str, Any] | None:
    file.seek(entry.start)
    *_, checksum, text = file.read(entry.length).split(b"\t", 4)
    intact = checksum.isdigit() and zlib.crc32(text.rstrip(b"\n")) == int(checksum)
    return json.loads(text) if intact else None
