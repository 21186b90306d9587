"""`haulier work`: N worker processes, each replaced when it dies, and what it held taken back at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

import psycopg
import structlog
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from config import changes, stillness
from config.metrics import Places
from config.settings import Settings
from config.signals import on_stop
from ledger.connection import Database
from ledger.roles import Role
from ledger.workers import remember_commands
from pipelines.load import describe, load
from workers import recovery
from workers.slots import Slots
from workers.unit import REPLACE_ME

log = structlog.get_logger()

#: How a process leaves in order. SIGTERM's own default ends one that was still starting: it has begun nothing yet.
IN_ORDER = (0, REPLACE_ME, -signal.SIGTERM)
#: A process that lived for less than this (seconds) is replaced only after a pause, doubling up to the cap.
SHORT_LIFE = 5.0
LONGEST_PAUSE = 10.0


class Post:
    """One place in the runner: the process that stands there now, and its slots."""

    def __init__(self, threads: int, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.slots = Slots.create(threads)
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.start_after = 0.0
        self.pause = 0.0


class Runner:
    def __init__(self, settings: Settings, queues: Sequence[str], processes: int, threads: int, places: Places | None = None) -> None:
        """`places`: where its processes shall keep their metrics, if they are asked for."""
        self._settings = settings
        self._queues = list(queues)
        self._posts = [Post(threads, places.environment(number) if places else {}) for number in range(processes)]
        self._database = Database(settings.need_database(), Role.WORKER, size=1, name="haulier runner", by_index=True)
        self._handlers = load(settings.handlers)
        self._changes = changes.connect(settings.redis_url)
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> int:
        """Until told to stop; returns the exit code: 0 when every process left in order."""
        while not stillness.wait(self._stop, 0.05, self._settings.lease / 2):
            for post in self._posts:
                self._look_after(post)
        return self._drain()

    def _look_after(self, post: Post) -> None:
        if post.process is not None and post.process.poll() is not None:
            self._bury(post, post.process.returncode)
        if post.process is None and time.monotonic() >= post.start_after:
            self._start(post)

    def _start(self, post: Post) -> None:
        order = json.dumps({"slots": post.slots.descriptor, "threads": post.slots.threads, "queues": self._queues})
        environment = {**os.environ, **post.environment}
        post.process = subprocess.Popen([sys.executable, "-m", "workers.unit", order], env=environment, pass_fds=[post.slots.descriptor])
        post.started_at = time.monotonic()

    def _bury(self, post: Post, code: int) -> None:
        """The process is gone: take back what it held, and make room for its successor."""
        if code not in (0, REPLACE_ME):
            log.error("worker process died; it is replaced", pid=post.process.pid if post.process else None, code=code)
        self._take_back(post)
        lived = time.monotonic() - post.started_at
        post.pause = 0.0 if lived > SHORT_LIFE else min(max(0.2, post.pause * 2), LONGEST_PAUSE)
        post.start_after = time.monotonic() + post.pause
        post.process = None

    def _take_back(self, post: Post) -> None:
        worker_id, suspects = post.slots.read()
        if worker_id is None:
            return
        try:
            with self._database.plumbing() as tx, tx.transaction():
                held = recovery.recover(tx, worker_id, suspects, self._handlers)
            recovery.tell(self._changes, held)
        except (psycopg.Error, PoolTimeoutError) as error:
            log.warning("could not take its jobs back; upkeep will", worker=str(worker_id), error=str(error).strip())

    def _drain(self) -> int:
        log.info("runner stops; what runs may finish", pid=os.getpid(), seconds=self._settings.drain)
        alive = [post.process for post in self._posts if post.process is not None]
        for process in alive:
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + self._settings.drain + 5
        for post in self._posts:
            if post.process is None:
                continue
            try:
                post.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                post.process.kill()
                post.process.wait()
            if post.process.returncode not in IN_ORDER:
                self._take_back(post)
        self._changes.close()
        self._database.close()
        return 0 if all(process.returncode in IN_ORDER for process in alive) else 1


def work(settings: Settings, queues: Sequence[str], places: Places | None = None) -> int:
    """Run until SIGTERM or SIGINT."""
    with Database(settings.need_database(), Role.WORKER, size=1).plumbing() as tx:
        remember_commands(tx, describe(load(settings.handlers)))
    runner = Runner(settings, queues, settings.processes, settings.threads, places)
    on_stop(runner.stop)
    log.info("runner started", pid=os.getpid(), processes=settings.processes, threads=settings.threads, queues=list(queues))
    return runner.run()
