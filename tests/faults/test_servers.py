"""RabbitMQ loses all that it knew; Postgres goes away and comes back."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.transport.message import decode
from console.servers.postgres import PostgresServer
from console.servers.rabbitmq import RabbitmqNode
from ledger.migrate import migrate
from tests.crash.commands import QUEUE
from tests.crash.rig import Rig, eventually
from tests.crash.verdict import all_succeeded_once, no_message_was_lost


@pytest.fixture
def vhost(rabbitmq_node: RabbitmqNode) -> Iterator[str]:
    """On the private node, which this module wipes."""
    name = f"faults_{secrets.token_hex(6)}"
    rabbitmq_node.add_vhost(name)
    yield name
    rabbitmq_node.delete_vhost(name)


def test_rabbitmq_may_be_wiped_while_jobs_are_queued_and_all_of_them_finish(
    rabbitmq_node: RabbitmqNode, vhost: str, database_url: str, tmp_path: Path
) -> None:
    with Rig(database_url, rabbitmq_node.vhost_url(vhost), tmp_path) as rig:
        parts = rig.start_all()
        running = [rig.write_waiting() for _ in range(2)]
        queued = [rig.submit("crash.count", {"n": n}) for n in range(30)]
        eventually(lambda: rig.consumers() == 0 and rig.ready_messages() >= 8, 20, rig.describe)

        rabbitmq_node.wipe()
        accepted_without = [rig.submit("crash.count", {"n": n}) for n in range(5)]
        rabbitmq_node.start()
        rabbitmq_node.add_vhost(vhost)
        rig.sink.let_through()
        rig.wait_until_final([*running, *queued, *accepted_without], 60)

        assert [part.code for part in parts.values()] == [None] * 4
        all_succeeded_once(rig, [*running, *queued, *accepted_without])
        no_message_was_lost(rig)  # after the one reset, of which the missing marker tells


def test_postgres_may_be_restarted_in_the_middle_and_all_jobs_finish_without_a_process_restart(
    rabbitmq_node: RabbitmqNode, vhost: str, tmp_path: Path
) -> None:
    with PostgresServer() as postgres:
        migrate(postgres.url)
        with Rig(postgres.url, rabbitmq_node.vhost_url(vhost), tmp_path) as rig:
            parts = rig.start_all()
            running = [rig.write_waiting(end) for end in ("count", "plain")]
            units = [unit.pid for unit in parts["work"].units()]
            queued = [rig.submit(command, {"n": n}) for n in range(10) for command in ("crash.count", "crash.plain", "crash.call")]

            postgres.stop()
            rig.sink.let_through()
            postgres.start()
            submitted_after = [rig.submit("crash.count", {"n": n}) for n in range(5)]
            rig.wait_until_final([*running, *queued, *submitted_after], 60)

            assert [part.code for part in parts.values()] == [None] * 4
            assert [unit.pid for unit in parts["work"].units()] == units
            all_succeeded_once(rig, [*running, *queued, *submitted_after])


def test_a_ledger_restored_from_before_its_messages_runs_nothing_wrong_and_keeps_what_it_does_not_know(
    rabbitmq_node: RabbitmqNode, vhost: str, tmp_path: Path
) -> None:
    with PostgresServer() as postgres:
        migrate(postgres.url)
        with Rig(postgres.url, rabbitmq_node.vhost_url(vhost), tmp_path) as rig:
            known = [rig.write("crash.count", {"n": n}) for n in range(5)]
            rig.announce(*((job, 1) for job in known))
            postgres.stop()
            subprocess.run(["cp", "-a", str(postgres.data), str(postgres.data.with_name("backup"))], check=True)
            postgres.start()
            assert len(rig.rows("select id from haulier.jobs")) == 5  # once the rig has found it again
            unknown = [rig.write("crash.count", {"n": n}) for n in range(5)]
            rig.announce(*((job, 1) for job in [*unknown, *known]))

            postgres.stop()
            shutil.rmtree(postgres.data)
            postgres.data.with_name("backup").rename(postgres.data)
            postgres.start()
            for role in ("intake", "relay", "work", "upkeep"):
                rig.start(role)
            later = [rig.submit("crash.call", {"n": n}) for n in range(5)]
            rig.wait_until_final([*known, *later])

            eventually(lambda: rig.value("select count(*) from haulier.orphan_messages") == 1, 20, rig.describe)
            [(body, reason)] = rig.rows("select body, reason from haulier.orphan_messages")
            assert {announced.job_id for announced in decode(bytes(body), QUEUE).jobs} == set(unknown)
            assert "5 job(s) that the ledger does not know" in reason
            assert rig.rows("select id from haulier.jobs where id = any(%s)", unknown) == []
            assert sum(len(rig.effects(job)) for job in unknown) == 0
            all_succeeded_once(rig, [*known, *later])
