"""Each toxic on a real Postgres and a real RabbitMQ does what it says, and what it does not touch arrives as it was."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pika
import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import AMQPConnectionError, AMQPError, NackError, UnroutableError

from config.ids import uuid7
from config.transport.message import Announcement, Message
from config.transport.rabbitmq import RabbitmqTransport
from tests.chaos.proxy import Proxy, Toxic, split
from tests.crash.rig import eventually

QUEUE = "poisoned"


@pytest.fixture
def postgres(empty_database_url: str) -> Iterator[Proxy]:
    with contextlib.closing(Proxy(empty_database_url, seed=1)) as proxy:
        yield proxy


@pytest.fixture
def rabbitmq(rabbitmq_url: str) -> Iterator[Proxy]:
    with contextlib.closing(Proxy(rabbitmq_url, seed=1)) as proxy:
        yield proxy


def test_a_healthy_proxy_carries_all_of_it(postgres: Proxy) -> None:
    with psycopg.connect(postgres.url) as connection:
        row = connection.execute("select repeat('x', 1000000), 1").fetchone()

        assert row == ("x" * 1_000_000, 1)
        assert postgres.connections == 1
    eventually(lambda: postgres.connections == 0, 5)


def test_latency_is_added_to_each_way(postgres: Proxy) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        postgres.set(Toxic(latency=0.1, jitter=0.02))
        began = time.monotonic()
        connection.execute("select 1")

        assert 0.15 < time.monotonic() - began < 1


def test_slices_arrive_as_one_whole(postgres: Proxy) -> None:
    postgres.set(Toxic(slices=3))

    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("select repeat('xyz', 5000)").fetchone() == ("xyz" * 5000,)


def test_a_blackhole_answers_nothing_until_it_is_over(postgres: Proxy) -> None:
    answers: list[Any] = []
    with psycopg.connect(postgres.url) as connection:
        postgres.set(Toxic(blackhole=True))
        asking = threading.Thread(target=lambda: answers.append(connection.execute("select 1").fetchone()))
        asking.start()
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(postgres.url, connect_timeout=2)
        assert answers == []
        postgres.heal()
        asking.join(5)

        assert answers == [(1,)]


def test_what_is_down_lets_nobody_in_and_keeps_nobody(postgres: Proxy) -> None:
    connection = psycopg.connect(postgres.url)
    postgres.set(Toxic(down=True))

    with pytest.raises(psycopg.OperationalError):
        connection.execute("select 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(postgres.url)
    postgres.heal()
    psycopg.connect(postgres.url).close()


def test_a_connection_that_is_cut_ends_with_a_reset(postgres: Proxy) -> None:
    connection = psycopg.connect(postgres.url)
    postgres.cut()

    with pytest.raises(psycopg.OperationalError):
        connection.execute("select 1")
    psycopg.connect(postgres.url).close()


def test_resets_come_by_chance(postgres: Proxy) -> None:
    postgres.set(Toxic(reset=0.1))
    ended = 0
    for _ in range(10):
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(postgres.url) as connection:
            for _ in range(3):
                connection.execute("select 1")
            continue
        ended += 1

    assert 0 < ended < 11


@pytest.mark.parametrize("statement", [b"insert into kept values (1); commit", b"select put(1); commit"])
def test_a_commits_answer_is_lost_and_what_it_committed_is_there(postgres: Proxy, statement: bytes) -> None:
    """As a worker writes an end: with its commit in one message."""
    with psycopg.connect(postgres.url) as connection:
        connection.execute("create table kept (n integer)")
        connection.execute("create function put(n integer) returns void language sql as 'insert into kept values (n)'")
    connection = psycopg.connect(postgres.url)
    postgres.set(Toxic(swallow="commit"))
    connection.pgconn.exec_(b"begin")

    answer = connection.pgconn.exec_(statement)
    broken = connection.pgconn.status
    postgres.heal()

    assert (answer.command_status, broken) != (b"COMMIT", psycopg.pq.ConnStatus.OK)
    assert count(postgres) == 1
    assert postgres.losses == 1


def test_the_answer_of_a_statement_that_commits_by_itself_is_lost_too(postgres: Proxy) -> None:
    connection = psycopg.connect(postgres.url, autocommit=True)
    connection.execute("create table kept (n integer)")
    postgres.set(Toxic(swallow="answer"))

    with pytest.raises(psycopg.OperationalError):
        connection.execute("insert into kept values (1)")
    postgres.heal()

    assert count(postgres) == 1


def test_nothing_is_lost_where_chance_has_it_so(postgres: Proxy) -> None:
    postgres.set(Toxic(swallow="answer", chance=0))

    psycopg.connect(postgres.url).close()

    assert postgres.losses == 0


def count(proxy: Proxy) -> int:
    with psycopg.connect(proxy.url) as connection:
        row = connection.execute("select count(*) from kept").fetchone()
    assert row
    return row[0]


# RabbitMQ.


@contextlib.contextmanager
def channel_of(proxy: Proxy, *, confirms: bool = True) -> Iterator[BlockingChannel]:
    parameters = pika.URLParameters(proxy.url)
    parameters.blocked_connection_timeout = 5
    connection = BlockingConnection(parameters)
    channel = connection.channel()
    channel.queue_declare(QUEUE, durable=True)
    if confirms:
        channel.confirm_delivery()
    try:
        yield channel
    finally:
        with contextlib.suppress(AMQPError):
            connection.close()


def publish(channel: BlockingChannel, queue: str = QUEUE, body: bytes = b"hello") -> None:
    channel.basic_publish("", queue, body, mandatory=True)


def depth(proxy: Proxy) -> int:
    with channel_of(proxy) as channel:
        return channel.queue_declare(QUEUE, passive=True).method.message_count


def test_frames_are_carried_whole_in_whatever_pieces(rabbitmq: Proxy) -> None:
    rabbitmq.set(Toxic(slices=5))
    body = b"0123456789" * 2_000

    with channel_of(rabbitmq) as channel:
        publish(channel, body=body)
        _, _, came = channel.basic_get(QUEUE, auto_ack=True)

    assert came == body


def test_a_confirm_is_lost_and_the_message_is_there(rabbitmq: Proxy) -> None:
    """The relay's own transport notices by its deadline."""
    transport = RabbitmqTransport(rabbitmq.url, [QUEUE], lambda: None, confirm_timeout=0.5)
    eventually(lambda: transport.ready, 10)
    rabbitmq.set(Toxic(swallow="confirm"))
    unconfirmed = transport.publish([Message(QUEUE, (Announcement(uuid7(), 1, None),))]).result(10)
    rabbitmq.heal()
    transport.close()

    assert len(unconfirmed) == 1
    assert rabbitmq.losses == 1


def test_a_confirm_becomes_a_nack(rabbitmq: Proxy) -> None:
    with channel_of(rabbitmq) as channel:
        rabbitmq.set(Toxic(refuse=True))
        with pytest.raises(NackError):
            publish(channel)
        rabbitmq.heal()
        publish(channel)


def test_the_return_of_a_message_that_no_queue_took_is_lost(rabbitmq: Proxy) -> None:
    with channel_of(rabbitmq) as channel:
        with pytest.raises(UnroutableError):
            publish(channel, "nowhere", b"x" * 300_000)
        rabbitmq.set(Toxic(swallow="return"))
        publish(channel, "nowhere", b"x" * 300_000)  # in three frames
        rabbitmq.heal()
        publish(channel)

    assert rabbitmq.losses == 1


def test_a_consumers_ack_is_lost_and_the_message_comes_again(rabbitmq: Proxy) -> None:
    with channel_of(rabbitmq) as channel:
        publish(channel)
        rabbitmq.set(Toxic(swallow="ack"))
        method, _, _ = channel.basic_get(QUEUE)
        assert method
        channel.basic_ack(method.delivery_tag or 0)
        channel.connection.process_data_events()
        eventually(lambda: rabbitmq.losses == 1, 5)
        rabbitmq.heal()
        rabbitmq.cut()

    eventually(lambda: depth(rabbitmq) == 1, 10)


def test_clients_are_told_of_an_alarm_and_of_its_end(rabbitmq: Proxy) -> None:
    told: list[str] = []
    with channel_of(rabbitmq) as channel:
        channel.connection.add_on_connection_blocked_callback(lambda _, frame: told.append(frame.method.reason))
        channel.connection.add_on_connection_unblocked_callback(lambda _, _frame: told.append("over"))
        rabbitmq.block("low on disk")
        rabbitmq.unblock()
        eventually(lambda: channel.connection.process_data_events(0) or len(told) == 2, 5)

        assert told == ["low on disk", "over"]
        publish(channel)


def test_a_broker_that_is_down_is_down(rabbitmq: Proxy) -> None:
    rabbitmq.set(Toxic(down=True))

    with pytest.raises(AMQPConnectionError):
        BlockingConnection(pika.URLParameters(rabbitmq.url))


def test_frames_are_split_where_they_end() -> None:
    frame = b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x00\x50\xce"

    assert split(frame + frame + frame[:6]) == ([frame, frame], frame[:6])
    assert split(frame[:-1]) == ([], frame[:-1])
