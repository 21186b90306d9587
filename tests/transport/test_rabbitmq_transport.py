"""The relay's end on a real RabbitMQ: what is confirmed, what is not and why, and every loss ridden out."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pika
import pika.adapters.blocking_connection
import pytest
import structlog

from config.ids import uuid7
from config.transport import topology
from config.transport.message import Announcement, Message
from config.transport.rabbitmq import RabbitmqTransport
from tests.chaos.proxy import Proxy, Toxic
from tests.transport.waiting import eventually
from tests.transport.way import RabbitmqWay, ignore


@pytest.fixture
def channel(rabbitmq_url: str) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
    yield connection.channel()
    connection.close()


def connected(url: str, queue: str, confirm_timeout: float = 10) -> RabbitmqTransport:
    transport = RabbitmqTransport(url, [queue], ignore, confirm_timeout)
    eventually(lambda: transport.ready)
    return transport


def test_every_message_of_a_batch_is_confirmed_and_there(rabbitmq_way: RabbitmqWay) -> None:
    rabbitmq_way.publish(300)

    assert rabbitmq_way.depth() == 300


def test_batches_from_many_sides_are_each_answered(rabbitmq_way: RabbitmqWay) -> None:
    futures = [rabbitmq_way.transport.publish([rabbitmq_way.message() for _ in range(size)]) for size in (0, 1, 7, 100, 1)]

    assert [future.result(20) for future in futures] == [[], [], [], [], []]
    assert rabbitmq_way.depth() == 109


def test_a_message_without_a_queue_is_returned_and_the_queue_declared_again(rabbitmq_way: RabbitmqWay) -> None:
    rabbitmq_way.channel.queue_delete(topology.wire_name(rabbitmq_way.queue))
    message = rabbitmq_way.message()

    [unconfirmed] = rabbitmq_way.transport.publish([message]).result(20)

    assert unconfirmed == (message, "returned: NO_ROUTE")
    eventually(lambda: rabbitmq_way.transport.publish([message]).result(20) == [])
    assert rabbitmq_way.depth() == 1


def test_a_queue_that_is_not_there_hides_no_other_queues_depth(rabbitmq_way: RabbitmqWay) -> None:
    rabbitmq_way.publish(3)

    def look() -> bool:
        found = [rabbitmq_way.transport.depth(name) for name in ("nowhere", rabbitmq_way.queue, "elsewhere")]
        return found == [None, 3, None]

    eventually(look)


def test_only_the_messages_that_were_returned_are_reported(rabbitmq_way: RabbitmqWay) -> None:
    lost = Message("nowhere", rabbitmq_way.message().jobs)
    messages = [rabbitmq_way.message(), lost, rabbitmq_way.message()]

    unconfirmed = rabbitmq_way.transport.publish(messages).result(20)

    assert unconfirmed == [(lost, "returned: NO_ROUTE")]
    assert rabbitmq_way.depth() == 2


def test_a_full_queue_nacks_and_its_other_arguments_are_named(
    rabbitmq_url: str, channel: pika.adapters.blocking_connection.BlockingChannel
) -> None:
    queue = f"q{uuid4().hex[:12]}"
    dead, (name, arguments) = topology.declarations(queue)
    channel.queue_declare(name, durable=True, arguments=arguments | {"x-max-length": 1})
    transport = connected(rabbitmq_url, queue)

    reasons: list[str] = []
    for _ in range(20):
        message = Message(queue, (Announcement(uuid7(), 1, None),))
        reasons += [unconfirmed.reason for unconfirmed in transport.publish([message]).result(20)]

    assert set(reasons) == {"nacked"}
    assert transport.problem is not None
    assert f"RabbitMQ's queue '{name}' was declared with other arguments" in transport.problem
    assert "x-max-length" in transport.problem
    transport.close()
    channel.queue_delete(name)
    channel.queue_delete(dead[0])


def test_check_names_what_is_missing_and_what_differs_and_creates_nothing(
    channel: pika.adapters.blocking_connection.BlockingChannel,
) -> None:
    missing, differing = f"q{uuid4().hex[:12]}", f"q{uuid4().hex[:12]}"
    channel.queue_declare(topology.wire_name(differing), durable=True)

    problems = topology.check(channel, [missing, differing])

    beginnings = [
        f"RabbitMQ has no queue '{name}'"
        for name in (topology.dead_name(missing), topology.wire_name(missing), topology.dead_name(differing))
    ]
    beginnings.append(f"RabbitMQ's queue '{topology.wire_name(differing)}' was declared with other arguments")
    assert [problem.startswith(beginning) for problem, beginning in zip(problems, beginnings, strict=True)] == [True] * 4
    fresh = channel.connection.channel()
    assert len(topology.check(fresh, [missing])) == 2
    channel.connection.channel().queue_delete(topology.wire_name(differing))


def test_check_finds_nothing_wrong_with_what_was_declared(rabbitmq_way: RabbitmqWay) -> None:
    assert topology.check(rabbitmq_way.channel, [rabbitmq_way.queue]) == []


def test_a_connection_cut_in_mid_batch_reports_the_rest_as_lost_and_comes_back(rabbitmq_way: RabbitmqWay, proxy: Proxy) -> None:
    transport = connected(proxy.url, rabbitmq_way.queue)
    proxy.set(Toxic(blackhole=True))
    messages = [rabbitmq_way.message() for _ in range(100)]

    future = transport.publish(messages)
    proxy.cut()

    unconfirmed = future.result(20)
    assert [each.message for each in unconfirmed] == messages
    assert all(each.reason.startswith("lost: ") for each in unconfirmed)
    proxy.close()
    transport.close()


def test_after_a_cut_messages_go_out_again(rabbitmq_way: RabbitmqWay, proxy: Proxy) -> None:
    transport = connected(proxy.url, rabbitmq_way.queue)

    proxy.cut()

    eventually(lambda: transport.publish([rabbitmq_way.message()]).result(20) == [])
    assert rabbitmq_way.depth() == 1
    transport.close()


def test_a_frozen_broker_holds_nobody_up_for_longer_than_the_deadline(rabbitmq_way: RabbitmqWay, proxy: Proxy) -> None:
    transport = connected(proxy.url, rabbitmq_way.queue, confirm_timeout=0.3)
    proxy.set(Toxic(blackhole=True))
    message = rabbitmq_way.message()

    with structlog.testing.capture_logs() as told:
        [unconfirmed] = transport.publish([message]).result(5)
        transport.publish([message]).result(5)

    assert unconfirmed == (message, "timed out: not confirmed within 0.3 s")
    assert [line["event"] for line in told] == ["RabbitMQ is slow to confirm; jobs wait in the ledger"]  # once, and not for each
    proxy.close()
    transport.close()


def test_without_a_broker_a_batch_fails_at_once() -> None:
    transport = RabbitmqTransport("amqp://guest:guest@127.0.0.1:1/%2f", ["orders"], ignore)
    message = Message("orders", (Announcement(uuid7(), 1, None),))

    [unconfirmed] = transport.publish([message]).result(1)

    assert unconfirmed.reason == "RabbitMQ is not connected; jobs are accepted and wait in the ledger"
    assert transport.problem == unconfirmed.reason
    assert transport.depth("orders") is None
    transport.close()


def test_a_missing_marker_means_a_reset_and_is_told_before_anything_is_published(
    rabbitmq_way: RabbitmqWay, channel: pika.adapters.blocking_connection.BlockingChannel, proxy: Proxy
) -> None:
    ready: list[bool] = []
    transport = RabbitmqTransport(proxy.url, [rabbitmq_way.queue], lambda: ready.append(transport.ready))
    eventually(lambda: transport.ready)
    ready.clear()

    channel.queue_delete(topology.MARKER)
    channel.queue_delete(topology.wire_name(rabbitmq_way.queue))
    proxy.cut()

    eventually(lambda: ready)
    eventually(lambda: transport.ready)
    assert ready == [False]
    assert topology.exists(channel, topology.MARKER)
    assert topology.exists(channel, topology.wire_name(rabbitmq_way.queue))
    proxy.cut()
    eventually(lambda: transport.publish([rabbitmq_way.message()]).result(20) == [])
    assert ready == [False]
    transport.close()


def test_a_reset_that_could_not_be_handled_is_told_again(
    rabbitmq_way: RabbitmqWay, channel: pika.adapters.blocking_connection.BlockingChannel, rabbitmq_url: str
) -> None:
    calls: list[int] = []

    def on_reset() -> None:
        calls.append(len(calls))
        if len(calls) < 3:
            raise RuntimeError("the database is away")

    channel.queue_delete(topology.MARKER)
    transport = RabbitmqTransport(rabbitmq_url, [rabbitmq_way.queue], on_reset)

    eventually(lambda: transport.ready)
    assert calls == [0, 1, 2]
    transport.close()


def test_depth_is_unknown_at_first_and_then_what_waits(rabbitmq_way: RabbitmqWay) -> None:
    rabbitmq_way.publish(3)

    first = rabbitmq_way.transport.depth(rabbitmq_way.queue)

    assert first is None
    eventually(lambda: rabbitmq_way.transport.depth(rabbitmq_way.queue) == 3)


def test_the_depth_of_a_queue_that_is_not_there_is_unknown_and_breaks_nothing(rabbitmq_way: RabbitmqWay) -> None:
    rabbitmq_way.publish(1)
    for _ in range(3):
        assert rabbitmq_way.transport.depth("nowhere") is None

    eventually(lambda: rabbitmq_way.transport.depth(rabbitmq_way.queue) == 1)
    assert rabbitmq_way.transport.depth("nowhere") is None
    rabbitmq_way.publish(1)


def test_an_alarm_of_rabbitmq_is_told_and_its_end(rabbitmq_way: RabbitmqWay, proxy: Proxy) -> None:
    """It may be over before any message has waited for too long; it must not go unnoticed."""
    transport = connected(proxy.url, rabbitmq_way.queue)

    with structlog.testing.capture_logs() as told:
        proxy.block("low on memory")
        eventually(lambda: transport.blocked)
        proxy.unblock()
        eventually(lambda: transport.ready)

    assert [(line["event"], line.get("reason")) for line in told] == [
        ("RabbitMQ takes no messages; jobs wait in the ledger", "low on memory"),
        ("RabbitMQ takes messages again", None),
    ]
    transport.close()
