"""A peer as a contender: its workers, and a producer of its own, both in its virtual environment.

A backlog is held at a gate in front of each job's work, and has ended when its last job has: before it is acknowledged, or marked as done.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from benchmarks.contender import Place
from benchmarks.peers.environments import python_of
from benchmarks.peers.table import PEERS
from benchmarks.processes import ROOT


class PeerContender:
    def __init__(self, place: Place, *, name: str) -> None:
        peer = PEERS[name]
        python = str(python_of(peer.module, peer.packages))
        environment = {
            "PYTHONPATH": str(ROOT),
            "BENCH_DATABASE_URL": place.database_url,
            "BENCH_BROKER_URL": place.broker_url,
            "BENCH_REDIS_URL": place.redis_url,
            "BENCH_RECORDS": str(place.reader.directory),
        }
        self._place = place
        self._log = place.logs / "producer.log"
        with self._log.open("ab") as log:
            self._producer = subprocess.Popen(
                [python, "-m", "benchmarks.peers.producer", peer.module], cwd=ROOT, env={**os.environ, **environment},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1,
            )  # fmt: skip
        self._answer()
        for copy in range(peer.copies):
            place.processes.start(f"work-{copy + 1}", [python, *peer.work], environment | {"BENCH_COPY": str(copy + 1)})

    def hold(self) -> None:
        self._place.reader.shut()

    def submit(self, kind: str, numbers: range) -> None:
        self._ask("submit", kind, numbers.start, numbers.stop)

    def release(self) -> None:
        self._place.reader.open()

    def submit_one(self, number: int) -> float:
        return self._ask("submit_one", number)

    def ended_at(self) -> float | None:
        return max(self._place.reader.ends().values())

    def close(self) -> None:
        self._producer.kill()
        self._producer.communicate()

    def _ask(self, *request: Any) -> float:
        assert self._producer.stdin is not None
        print(json.dumps(request), file=self._producer.stdin, flush=True)
        return self._answer()

    def _answer(self) -> float:
        """Raises RuntimeError when it has ended instead."""
        assert self._producer.stdout is not None
        line = self._producer.stdout.readline()
        if not line:
            raise RuntimeError(f"the producer ended with status {self._producer.wait()}; see {self._log}")
        return float(line)
