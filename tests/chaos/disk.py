"""`python -m tests.chaos.disk`: the disk under Postgres, its WAL and its tables alike, is full for a while under load. Half a minute; needs root,
to mount a small file system. Nothing that was accepted may be lost, and nobody but the disk needs a hand.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from config import logs
from console.servers.find import rabbitmq_node
from console.servers.postgres import PostgresServer
from ledger.migrate import migrate
from tests.chaos.steady import Load
from tests.crash.rig import Rig, eventually
from tests.crash.verdict import all_succeeded_once

#: Of the disk; Postgres takes about half of it before the first job.
SIZE = "160m"
#: Seconds for which the disk is full, first for the tables and then for the WAL too, and of load after.
FULL, AFTER = 8, 4


def main() -> int:
    if os.geteuid() != 0:
        print("not shown: mounting a file system takes root")
        return 0
    logs.configure(level="ERROR")
    with (
        small_disk() as disk,
        tempfile.TemporaryDirectory() as directory,
        PostgresServer(disk / "postgres") as postgres,
        rabbitmq_node(schedulers=1) as rabbitmq,
    ):
        migrate(postgres.url)
        with Rig(postgres.url, rabbitmq.url, Path(directory)) as rig:
            play(rig, postgres, disk)
    return 0


def play(rig: Rig, postgres: PostgresServer, disk: Path) -> None:
    parts = rig.start_all()
    with Load(rig) as load:
        eventually(lambda: len(load.ids) > 20, 60, rig.describe)
        before = len(load.ids)
        filler = fill(disk)
        time.sleep(FULL / 2)
        want_new_wal(postgres)
        time.sleep(FULL / 2)
        while_full = len(load.ids)
        filler.unlink()
        died = not postgres.answers()
        if died:
            postgres.kill()
            postgres.start()
        time.sleep(AFTER)
    rig.wait_until_final(load.ids, 60)
    all_succeeded_once(rig, load.ids)
    restarted = [role for role, part in parts.items() if part.code is not None]
    assert not restarted, f"these have ended: {restarted}"
    print(
        f"{len(load.ids)} jobs accepted, {before} before the disk was full and {while_full - before} meanwhile; Postgres "
        f"{'gave up and was started again' if died else 'stayed'}; lost 0, done twice 0, no process of Haulier's was restarted"
    )


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="haulier-disk-") as name:
        Path(name).chmod(0o755)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def fill(disk: Path) -> Path:
    """Take all that is left."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 65_536) == 65_536:
            pass
    return path


def want_new_wal(postgres: PostgresServer) -> None:
    """Its next segment finds no room, and Postgres gives up (PANIC)."""
    with contextlib.suppress(psycopg.Error), psycopg.connect(postgres.url, autocommit=True, connect_timeout=5) as connection:
        for _ in range(20):
            connection.execute("select pg_logical_emit_message(false, 'full', ''), pg_switch_wal()")


if __name__ == "__main__":
    sys.exit(main())
