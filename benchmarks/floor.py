"""The floor: our path with nothing on it. Each hop is durable, works on sets, and keeps no attempt, lease, event, result, tenant or fence.

Intake: jobs and outbox rows in one statement. Relay: takes outbox rows (SKIP LOCKED), publishes to a quorum queue with confirms, deletes
them, commits. Worker: takes deliveries, has all their effects and marks them done in one statement, acknowledges. One job a message.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from typing import Any, LiteralString

import orjson
import pika
import psycopg
from pika.adapters.blocking_connection import BlockingConnection
from pika.adapters.select_connection import SelectConnection

from benchmarks.contender import WORKER_PROCESSES, Place, await_
from benchmarks.records import own_writer
from benchmarks.work import payload

QUEUE = "floor"
#: Members of each hop's sets.
SET_SIZE = 200

TABLES: LiteralString = """
create table bench.job (id bigint primary key, done boolean not null default false, payload text not null) with (fillfactor = 70);
create table bench.outbox (id bigserial primary key, job_id bigint not null, account integer not null);
"""
WRITE: LiteralString = """
with new as (select * from unnest(%s::bigint[], %s::integer[], %s::text[]) as t (id, account, payload)),
written as (insert into bench.job (id, payload) select id, payload from new)
insert into bench.outbox (job_id, account) select id, account from new
"""
TAKE: LiteralString = """
delete from bench.outbox where id in (select id from bench.outbox order by id limit %s for update skip locked) returning job_id, account
"""
DONE: LiteralString = """
with done as (update bench.job set done = true where id = any (%s)),
new as (
    insert into bench.processed (job_number) select job_id from unnest(%s::bigint[]) as job_id on conflict do nothing returning job_number),
wanted as materialized (
    select account as id, count(*) as n from new join unnest(%s::bigint[], %s::integer[]) as asked (job_number, account) using (job_number)
     group by 1),
locked as materialized (
    select a.id from bench.account a where a.id in (select id from wanted) order by a.id for update)
update bench.account a set n = a.n + w.n from wanted w, locked l where a.id = w.id and l.id = a.id
"""


class Floor:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._database: psycopg.Connection[Any] = _connect(place.database_url, "floor intake")
        self._database.execute(TABLES, prepare=False)
        with BlockingConnection(pika.URLParameters(place.broker_url)) as connection:
            connection.channel().queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        environment = {
            "BENCH_DATABASE_URL": place.database_url,
            "BENCH_BROKER_URL": place.broker_url,
            "BENCH_RECORDS": str(place.reader.directory),
        }
        place.processes.start("work", [sys.executable, "-m", "benchmarks.floor", "work"], environment)
        self._relay = place.processes.start("relay", [sys.executable, "-m", "benchmarks.floor", "relay"], environment)

    def hold(self) -> None:
        await_(self._is_empty, "the outbox to be empty", self._place)
        self._relay.send_signal(signal.SIGSTOP)

    def submit(self, kind: str, numbers: range) -> None:
        for first in range(numbers.start, numbers.stop, SET_SIZE):
            jobs = [payload(kind, number) for number in range(first, min(first + SET_SIZE, numbers.stop))]
            columns = [job["number"] for job in jobs], [job["account"] for job in jobs], [orjson.dumps(job).decode() for job in jobs]
            self._database.execute(WRITE, columns)

    def release(self) -> None:
        self._relay.send_signal(signal.SIGCONT)

    def submit_one(self, number: int) -> float:
        raise NotImplementedError

    def ended_at(self) -> float | None:
        return max(self._place.reader.ends().values())

    def close(self) -> None:
        self._database.close()

    def _is_empty(self) -> bool:
        row = self._database.execute("select not exists (select from bench.outbox)").fetchone()
        return row is not None and row[0]


class Relay:
    """Takes a set, publishes all of it, waits for every confirm, commits; then the next."""

    def __init__(self) -> None:
        self._tx: psycopg.Connection[Any] = _connect(os.environ["BENCH_DATABASE_URL"], "floor relay", autocommit=False)
        self._channel: Any = None
        self._published = 0
        self._confirmed = 0
        self._connection = SelectConnection(
            pika.URLParameters(os.environ["BENCH_BROKER_URL"]),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._begin),
        )

    def run(self) -> None:
        self._connection.ioloop.start()

    def _begin(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._carry())

    def _carry(self) -> None:
        rows = self._tx.execute(TAKE, (SET_SIZE,)).fetchall()
        if not rows:
            self._tx.rollback()
            self._connection.ioloop.call_later(0.002, self._carry)
        for job_id, account in rows:
            self._channel.basic_publish("", QUEUE, b"%d %d" % (job_id, account), pika.BasicProperties(delivery_mode=2))
        self._published += len(rows)

    def _on_confirm(self, frame: Any) -> None:
        assert frame.method.NAME == "Basic.Ack"
        self._confirmed = frame.method.delivery_tag if frame.method.multiple else self._confirmed + 1
        if self._confirmed == self._published:
            self._tx.commit()
            self._carry()


def work() -> None:
    tx = _connect(os.environ["BENCH_DATABASE_URL"], "floor worker")
    with BlockingConnection(pika.URLParameters(os.environ["BENCH_BROKER_URL"])) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=2 * SET_SIZE)
        arrived: list[tuple[int, int, int]] = []
        channel.basic_consume(
            QUEUE, lambda _channel, method, _properties, body: arrived.append((method.delivery_tag, *map(int, body.split())))
        )
        while True:
            connection.process_data_events(time_limit=0 if arrived else 1)
            if not arrived:
                continue
            mine, arrived[:] = arrived[:SET_SIZE], arrived[SET_SIZE:]
            ids, accounts = [job for _, job, _ in mine], [account for _, _, account in mine]
            tx.execute(DONE, (ids, ids, ids, accounts))
            channel.basic_ack(mine[-1][0], multiple=True)
            for number in ids:
                own_writer().end(number)


def _connect(url: str, name: str, *, autocommit: bool = True) -> psycopg.Connection[Any]:
    connection: psycopg.Connection[Any] = psycopg.connect(url, autocommit=autocommit, application_name=name)
    connection.prepare_threshold = 0
    return connection


def main() -> None:
    if sys.argv[1] == "relay":
        Relay().run()
        return
    processes = [multiprocessing.Process(target=work, daemon=True) for _ in range(WORKER_PROCESSES)]
    for process in processes:
        process.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
