"""The workers' end on a real RabbitMQ: connections that are lost, queues that are deleted, brokers that are killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pika
import pytest

from config.transport import topology
from config.transport.message import Message, encode
from config.transport.rabbitmq import RabbitmqTransport
from console.servers.rabbitmq import RabbitmqNode
from tests.chaos.proxy import Proxy
from tests.transport.waiting import eventually, never
from tests.transport.way import Hold, Note, RabbitmqWay, ignore
from workers import subscription
from workers.capacity import FULL
from workers.dead_letters import drain_dead_letters
from workers.delivery import Delivery
from workers.subscription import Subscription


def test_what_was_in_flight_over_a_reconnect_settles_nothing_of_the_new_connection(rabbitmq_way: RabbitmqWay, proxy: Proxy) -> None:
    old, new = Hold(early=False), Hold(early=False)

    def perform(delivery: Delivery) -> None:
        (old if len(old.deliveries) < 2 else new)(delivery)

    _, worker = rabbitmq_way.work(perform, threads=4, url=proxy.url)
    rabbitmq_way.publish(2)
    eventually(lambda: len(old.deliveries) == 2)

    proxy.cut()
    eventually(lambda: len(new.deliveries) == 2)
    for delivery in old.deliveries:  # stock Dramatiq would settle the new connection's tags 1 and 2 here
        assert delivery.dead
        delivery.acknowledge()
        delivery.return_()
    old.go_on.set()

    never(lambda: len(new.deliveries) > 2)
    rabbitmq_way.stop(worker)
    eventually(lambda: rabbitmq_way.depth() == 2)
    new.go_on.set()


def test_an_acknowledged_job_does_not_come_again_after_a_lost_connection(rabbitmq_way: RabbitmqWay, proxy: Proxy) -> None:
    hold = Hold()
    rabbitmq_way.work(hold, threads=2, url=proxy.url)
    rabbitmq_way.publish(2)
    eventually(lambda: len(hold.deliveries) == 2)
    eventually(lambda: unacknowledged(rabbitmq_way, proxy) == 0)

    proxy.cut()

    never(lambda: len(hold.deliveries) > 2, seconds=1.5)
    hold.go_on.set()
    rabbitmq_way.publish(1)
    eventually(lambda: len(hold.deliveries) == 3)


def unacknowledged(way: RabbitmqWay, proxy: Proxy) -> int:
    """Acknowledgements are sent a moment after they were asked for: nothing comes back once they are through."""
    time.sleep(0.1)
    return way.depth() or 0


def test_a_delivery_whose_connection_is_lost_before_it_starts_is_not_started(rabbitmq_way: RabbitmqWay, proxy: Proxy) -> None:
    note = Note()
    broker, _ = rabbitmq_way.work(note, url=proxy.url)
    lost = Subscription(proxy.url, rabbitmq_way.queue)
    delivery = Delivery(rabbitmq_way.message(), lost, 1)

    lost.close()
    broker.get_actor(rabbitmq_way.queue)(delivery)

    assert note.messages == []


def test_relay_and_worker_ride_out_a_queue_that_is_deleted_under_them(rabbitmq_way: RabbitmqWay) -> None:
    note = Note()
    broker, worker = rabbitmq_way.work(note)

    rabbitmq_way.channel.queue_delete(topology.wire_name(rabbitmq_way.queue))

    eventually(lambda: rabbitmq_way.transport.publish([rabbitmq_way.message()]).result(20) == [])
    eventually(lambda: note.messages)
    eventually(lambda: broker.problem is None)
    assert all(thread.is_alive() for thread in worker.consumers.values())


def test_a_consumer_that_rabbitmq_forgot_without_a_word_notices(rabbitmq_way: RabbitmqWay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "QUIET", 0.2)
    note = Note()
    rabbitmq_way.work(note)

    rabbitmq_way.channel.queue_delete(topology.wire_name(rabbitmq_way.queue))
    topology.declare(rabbitmq_way.channel, [rabbitmq_way.queue])
    messages = rabbitmq_way.publish(5)

    eventually(lambda: len(note.messages) == 5)
    assert {message.jobs for message in note.messages} == {message.jobs for message in messages}


def test_a_consumer_that_rabbitmq_cancels_consumes_again(rabbitmq_way: RabbitmqWay) -> None:
    note = Note()
    rabbitmq_way.work(note)

    rabbitmq_way.channel.queue_delete(topology.wire_name(rabbitmq_way.queue))

    eventually(lambda: topology.exists(rabbitmq_way.connection.channel(), topology.wire_name(rabbitmq_way.queue)))
    message = rabbitmq_way.message()
    eventually(lambda: rabbitmq_way.transport.publish([message]).result(20) == [])  # a queue just declared may still refuse
    eventually(lambda: message in note.messages)


def test_a_worker_names_the_queue_that_has_other_arguments_and_works_on_it(rabbitmq_way: RabbitmqWay) -> None:
    name = topology.wire_name(rabbitmq_way.queue)
    rabbitmq_way.channel.queue_delete(name)
    rabbitmq_way.channel.queue_declare(name, durable=True)
    note = Note()

    broker = rabbitmq_way.broker(note, 1, lambda *_: None, None)
    consumer = broker.consume(rabbitmq_way.queue, timeout=100)
    rabbitmq_way.publish()
    eventually(lambda: next(consumer))

    assert broker.problem is not None
    assert f"RabbitMQ's queue '{name}' was declared with other arguments" in broker.problem
    consumer.close()


def test_short_jobs_never_make_a_worker_stop_taking(rabbitmq_way: RabbitmqWay, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[float] = []
    cancel = Subscription.cancel
    monkeypatch.setattr(Subscription, "cancel", lambda self: (cancelled.append(time.monotonic()), cancel(self)))
    done: list[Message] = []
    pace = threading.Event()

    def perform(delivery: Delivery) -> None:
        delivery.acknowledge()
        pace.wait(FULL / 20)
        done.append(delivery.message)

    rabbitmq_way.work(perform, threads=2)

    rabbitmq_way.publish(300)

    eventually(lambda: len(done) == 300)
    assert cancelled == []


def test_a_message_returned_too_often_is_told_as_dead_with_its_jobs(rabbitmq_way: RabbitmqWay, drained: list[tuple[object, ...]]) -> None:
    [message] = rabbitmq_way.publish()

    for _ in range(topology.DELIVERY_LIMIT + 1):
        eventually(lambda: return_one(rabbitmq_way))

    eventually(lambda: drained)
    queue, told, body, reason = drained[0]
    assert (queue, told, reason) == (rabbitmq_way.queue, message, "delivery_limit")
    assert isinstance(body, bytes)
    eventually(lambda: dead_depth(rabbitmq_way) == 0)


def return_one(way: RabbitmqWay) -> bool:
    method, _, _ = way.channel.basic_get(topology.wire_name(way.queue))
    if method is not None:
        way.channel.basic_nack(method.delivery_tag, requeue=True)
    return method is not None


def dead_depth(way: RabbitmqWay) -> int:
    return way.channel.queue_declare(topology.dead_name(way.queue), passive=True).method.message_count


def test_an_unreadable_dead_message_is_told_without_jobs_and_stops_nothing(
    rabbitmq_way: RabbitmqWay, drained: list[tuple[object, ...]]
) -> None:
    message = rabbitmq_way.message()

    rabbitmq_way.channel.basic_publish("", topology.dead_name(rabbitmq_way.queue), b"nonsense")
    rabbitmq_way.channel.basic_publish("", topology.dead_name(rabbitmq_way.queue), encode(message))

    eventually(lambda: len(drained) == 2)
    assert [(told, body) for _, told, body, _ in drained] == [(None, b"nonsense"), (message, drained[1][2])]
    assert str(drained[0][3]).startswith("not JSON")


@pytest.fixture
def drained(rabbitmq_way: RabbitmqWay) -> Iterator[list[tuple[object, ...]]]:
    told: list[tuple[object, ...]] = []
    stop = threading.Event()
    thread = threading.Thread(
        target=drain_dead_letters, args=(rabbitmq_way.url, [rabbitmq_way.queue], lambda *dead: told.append(dead), stop)
    )
    thread.start()
    yield told
    stop.set()
    thread.join(20)


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitmqNode]:
    with RabbitmqNode(schedulers=1) as running:
        yield running


def test_a_broker_that_is_killed_loses_no_confirmed_message_and_everybody_comes_back(node: RabbitmqNode) -> None:
    way = RabbitmqWay(node.url)
    published: list[Message] = way.publish(50)
    way.connection.close()

    node.kill()
    [unconfirmed] = way.transport.publish([way.message()]).result(20)
    note = Note()
    broker = way.broker(note, 2, lambda *_: None, None)
    consumer = broker.consume(way.queue, timeout=100)
    assert [next(consumer) for _ in range(3)] == [None, None, None]
    assert broker.problem == "RabbitMQ is not connected"
    assert unconfirmed.reason
    node.start()

    eventually(lambda: way.transport.ready, 60)
    published += way.publish(10)
    found: set[object] = set()

    def take_one() -> bool:
        handover = next(consumer)
        if handover is not None:
            found.add(handover.args[0].message.jobs)
            handover.args[0].acknowledge()
            consumer.ack(handover)
        return len(found) == 60

    eventually(take_one, 60)
    assert found == {message.jobs for message in published}
    consumer.close()
    way.transport.close()


def test_a_broker_short_of_memory_is_named_and_takes_messages_again_when_it_has_some(node: RabbitmqNode) -> None:
    way = RabbitmqWay(node.url)

    node.ctl("set_vm_memory_high_watermark", "0.0001")

    eventually(lambda: way.transport.publish([way.message()]) and way.transport.blocked)
    assert way.transport.problem == "RabbitMQ takes no messages (low on memory): it is short of memory or disk"
    [unconfirmed] = way.transport.publish([way.message()]).result(1)
    assert unconfirmed.reason == way.transport.problem
    node.ctl("set_vm_memory_high_watermark", "0.6")
    eventually(lambda: way.transport.ready)
    eventually(lambda: way.transport.publish([way.message()]).result(20) == [])
    way.close()


def test_after_a_wipe_the_reset_is_told_and_work_goes_on(node: RabbitmqNode) -> None:
    resets: list[float] = []
    transport = RabbitmqTransport(node.url, ["orders"], lambda: resets.append(time.monotonic()))
    eventually(lambda: transport.ready)
    resets.clear()

    node.wipe()
    node.start()

    eventually(lambda: transport.ready, 60)
    assert len(resets) == 1
    connection = pika.BlockingConnection(pika.URLParameters(node.url))
    assert topology.check(connection.channel(), ["orders"]) == []
    connection.close()
    transport.close()


def test_a_consumer_that_was_closed_while_its_thread_waited_lets_go_at_once_and_stays_closed(rabbitmq_way: RabbitmqWay) -> None:
    broker = rabbitmq_way.broker(lambda _: None, 4, ignore, None)
    consumer = broker.consume(rabbitmq_way.queue, prefetch=4, timeout=3_000)
    thread = threading.Thread(target=next, args=(consumer,))
    thread.start()
    eventually(lambda: rabbitmq_way.consumers() == 1)

    consumer.close()

    thread.join(1)
    assert not thread.is_alive()
    assert [next(consumer) for _ in range(3)] == [None, None, None]
    assert rabbitmq_way.consumers() == 0
