"""When each job ended: every worker process writes into a memory-mapped file of its own, which costs a job about a microsecond.

For all but Haulier there is also a gate, at which jobs wait until the clock starts.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import threading
import time
from pathlib import Path

CAPACITY = 4_000_000
COUNT = struct.Struct("<Q")
RECORD = struct.Struct("<qd")
SIZE = COUNT.size + CAPACITY * RECORD.size
OPEN, SHUT = 1, 0


class Writer:
    """A worker process's own file."""

    def __init__(self, directory: Path) -> None:
        with (directory / f"{os.getpid()}.ends").open("a+b") as file:
            file.truncate(SIZE)
            self._ends = mmap.mmap(file.fileno(), SIZE)
        with (directory / "gate").open("r+b") as file:
            self._gate = mmap.mmap(file.fileno(), 1)
        self._next = itertools.count()
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._written = 0

    def is_open(self) -> bool:
        return self._gate[0] == OPEN

    def wait(self) -> None:
        """Until the gate is open; one thread looks, the others wait for it."""
        if not self.is_open():
            with self._looking:
                while not self.is_open():
                    time.sleep(0.005)

    def end(self, number: int) -> None:
        RECORD.pack_into(self._ends, COUNT.size + next(self._next) * RECORD.size, number, time.time())
        with self._lock:
            self._written += 1
            COUNT.pack_into(self._ends, 0, self._written)


def own_writer() -> Writer:
    """This process's, made when it is first wanted, in the directory that the benchmark names."""
    global _own  # noqa: PLW0603
    if _own is None:
        with _making:
            _own = _own or Writer(Path(os.environ["BENCH_RECORDS"]))
    return _own


_own: Writer | None = None
_making = threading.Lock()


class Reader:
    """The benchmark's side."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        (directory / "gate").write_bytes(bytes([OPEN]))

    def shut(self) -> None:
        self._set(SHUT)

    def open(self) -> None:
        self._set(OPEN)

    def count(self) -> int:
        """Those that ran twice, because a shared transaction was given up, count twice."""
        return sum(COUNT.unpack(self._read(path, COUNT.size))[0] for path in self.directory.glob("*.ends"))

    def ends(self) -> dict[int, float]:
        """By the job's number, in Unix seconds."""
        return dict(itertools.chain.from_iterable(self._records(path) for path in self.directory.glob("*.ends")))

    def _records(self, path: Path) -> list[tuple[int, float]]:
        written = COUNT.unpack(self._read(path, COUNT.size))[0]
        return list(RECORD.iter_unpack(self._read(path, COUNT.size + written * RECORD.size)[COUNT.size :]))

    def _set(self, value: int) -> None:
        with (self.directory / "gate").open("r+b") as file, mmap.mmap(file.fileno(), 1) as gate:
            gate[0] = value

    @staticmethod
    def _read(path: Path, size: int) -> bytes:
        with path.open("rb") as file:
            return file.read(size).ljust(size, b"\0")
