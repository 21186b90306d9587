"""Shared memory in which each worker thread names the job that it is running, so that its runner can tell the guilty job of a crash.

Written with two plain stores and no system call; read by the runner after the process is gone.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from uuid import UUID

HEADER = 16
SLOT = 16
NOBODY = bytes(16)
#: A thread's slot while it carries out many jobs in one call: each of its process's jobs may be the guilty one.
ANY = UUID(bytes=b"\xff" * 16)


class Slots:
    """One process's slots: its worker id, and a job id for each thread. The memory is a file without a name, inherited by descriptor."""

    def __init__(self, descriptor: int, threads: int) -> None:
        self.descriptor = descriptor
        self.threads = threads
        self._memory = mmap.mmap(descriptor, HEADER + SLOT * threads)

    @classmethod
    def create(cls, threads: int) -> Slots:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(HEADER + SLOT * threads))  # what is only promised, a full disk refuses with a signal that kills
            file.flush()
            return cls(os.dup(file.fileno()), threads)

    def sign(self, worker_id: UUID) -> None:
        """Say whose slots these are, and that nothing runs yet."""
        self._memory[:] = worker_id.bytes + bytes(SLOT * self.threads)

    def enter(self, slot: int, job_id: UUID) -> None:
        self._memory[HEADER + SLOT * slot : HEADER + SLOT * (slot + 1)] = job_id.bytes

    def leave(self, slot: int) -> None:
        self._memory[HEADER + SLOT * slot : HEADER + SLOT * (slot + 1)] = NOBODY

    def read(self) -> tuple[UUID | None, set[UUID]]:
        """Whose slots these were, and what was running in them."""
        memory = self._memory[:]
        owner = UUID(bytes=memory[:HEADER]) if memory[:HEADER] != NOBODY else None
        jobs = (memory[at : at + SLOT] for at in range(HEADER, len(memory), SLOT))
        return owner, {UUID(bytes=job) for job in jobs if job != NOBODY}

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)
