"""`python -m tests.chaos.standby`: Postgres with a standby, its primary killed under load and the standby promoted. Two minutes.

With a synchronous standby nothing that was accepted may be lost. With an asynchronous one that has fallen behind something is: how much is counted
and told, and what is left must be whole.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg

from console.servers.postgres import PostgresServer
from console.servers.process import ServerError
from console.servers.rabbitmq import RabbitmqNode
from ledger.migrate import migrate
from tests.chaos.front import Front
from tests.chaos.steady import Load
from tests.crash.rig import Rig, eventually
from tests.crash.verdict import effects_are_single, history_is_whole, nothing_is_left

#: Seconds of load before the fault, while the standby is behind, and after.
BEFORE, BEHIND, AFTER = 5, 3, 5


class Standby(PostgresServer):
    """A copy of a primary that follows it until it is promoted."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__(settings={"hot_standby": "on"})
        self._primary = primary

    def promote(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("select pg_promote(true, 60)")

    def stop_following(self) -> None:
        """It answers, and hears nothing any more."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("alter system set primary_conninfo = ''")
            connection.execute("select pg_reload_conf()")

    def _write_password(self) -> None:
        shutil.copy(self._primary._password_file, self._password_file)
        if self._account is not None:
            shutil.chown(self._password_file, *self._account)

    def _initdb(self, directory: Path) -> None:
        user, group = self._account or (None, None)
        done = subprocess.run(
            [str(self._binaries / "pg_basebackup"), "-d", self._primary.url, "-D", str(directory), "-R", "-X", "stream", "-c", "fast"],
            env=self._environment(), cwd=directory, user=user, group=group, extra_groups=[] if self._account else None,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ServerError(f"pg_basebackup ended with status {done.returncode}:\n{done.stdout}{done.stderr}")


def main() -> int:
    with RabbitmqNode(schedulers=1) as node:
        fail_over(node, "sync", synchronous=True)
        fail_over(node, "async", synchronous=False)
    return 0


def fail_over(node: RabbitmqNode, vhost: str, *, synchronous: bool) -> None:
    with ExitStack() as stack:
        primary = stack.enter_context(PostgresServer(settings={"wal_level": "replica"}))
        migrate(primary.url)
        standby = stack.enter_context(Standby(primary))
        if synchronous:
            wait_for_each_other(primary)
        front = Front(primary.url, [primary.port])
        stack.callback(front.close)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="haulier-standby-")))
        rig = stack.enter_context(Rig(front.url, node.add_vhost(vhost), directory, tick=0.5, lease=4.0, heartbeat=1.0, threads=4))
        rig.start_all()
        with Load(rig) as load:
            eventually(lambda: len(load.ids) > 20, 60, rig.describe)
            time.sleep(BEFORE)
            if not synchronous:
                standby.stop_following()
                time.sleep(BEHIND)
            began = time.time()
            primary.kill()
            front.point_at()
            before = set(load.ids)
            standby.promote()
            front.point_at(standby.port)
            away = time.time() - began
            time.sleep(AFTER)
            pause = load.longest_pause(began)
        kept = [row[0] for row in rig.rows("select id from haulier.jobs where id = any(%s)", load.ids)]
        eventually(lambda: rig.wait_until_final(kept, 5) or True, 90, rig.describe)
        lost = set(load.ids) - set(kept)
        is_whole(rig, kept, lost)
        print(
            f"{'synchronous' if synchronous else 'asynchronous'} standby, promoted {away:.1f} s after its primary was killed: {len(load.ids)} jobs "
            f"accepted, lost {len(lost)} of the {len(before)} that were accepted before; longest pause between ends of jobs {pause:.1f} s",
            flush=True,
        )
        assert lost <= before
        assert not (synchronous and lost)
        assert synchronous or lost, "the standby was to be behind, and was not: nothing is measured"


def wait_for_each_other(primary: PostgresServer) -> None:
    with psycopg.connect(primary.url, autocommit=True) as connection:
        connection.execute("alter system set synchronous_standby_names = '*'")
        connection.execute("select pg_reload_conf()")
        state = "select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')"
        eventually(lambda: connection.execute(state).fetchone() == (1,), 30, "the standby does not follow in step")


def is_whole(rig: Rig, kept: list, lost: set) -> None:
    """What the promoted standby knows was done once. Of what it does not know nothing is in its ledger; what happened outside for it, did."""
    ends = rig.rows("select distinct state::text from haulier.jobs where root_id = any(%s)", kept)
    assert ends == [("succeeded",)], rig.describe()
    effects_are_single(rig, kept)
    history_is_whole(rig, kept)
    nothing_is_left(rig)
    called = [key for key in rig.sink.calls if any(key.startswith(str(job)) for job in lost)]
    if lost:
        orphans = rig.value("select coalesce(sum(times), 0) from haulier.orphan_messages")
        print(
            f"of the lost, {len(called)} had called outside; {orphans} messages named jobs that the ledger does not know, and are kept",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
