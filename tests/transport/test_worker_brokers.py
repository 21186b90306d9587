"""The workers' end: what must hold on RabbitMQ and in memory alike."""

from __future__ import annotations

import json
import threading
from typing import Any
from uuid import UUID

from dramatiq import Worker

from config.transport.message import encode
from tests.transport.waiting import eventually, never, settles
from tests.transport.way import Hold, Note, Way
from workers.delivery import Delivery

JOB = str(UUID(int=7))


def alive(worker: Worker) -> bool:
    return all(thread.is_alive() for thread in (*worker.workers, *worker.consumers.values()))


def malformed(queue: str) -> list[bytes]:
    """The bodies that stop or shrink a stock Dramatiq worker."""
    whole: dict[str, Any] = {
        "queue_name": queue,
        "actor_name": queue,
        "args": [[JOB, 1, None]],
        "kwargs": {},
        "options": {},
        "message_id": "m",
        "message_timestamp": 1,
    }
    changes: list[dict[str, Any]] = [
        {"options": None},
        {"options": {"eta": "soon"}, "args": []},
        {"queue_name": "bulk"},
        {"queue_name": None},
        {"actor_name": "nobody"},
        {"kwargs": [1]},
        {"args": None},
        {"args": [["not a uuid", 1, None]]},
        {"args": [[JOB, "1", None]]},
    ]
    return [b"", b"\xff\xfe", b"null", b"[]", b"\x80\x04N.", *(json.dumps(whole | change).encode() for change in changes)]


def test_a_message_is_handed_over_with_its_jobs_as_soon_as_it_arrives(way: Way) -> None:
    note = Note()
    way.work(note, timeout=10_000)

    messages = way.publish()

    eventually(lambda: note.messages, seconds=2)
    assert note.messages == messages


def test_an_acknowledged_delivery_is_gone_while_its_actor_still_runs(way: Way) -> None:
    hold = Hold()
    _, worker = way.work(hold)
    way.publish()
    eventually(lambda: hold.deliveries)

    way.stop(worker)

    other = Note()
    way.work(other)
    never(lambda: other.messages)
    hold.go_on.set()


def test_what_was_not_acknowledged_goes_back_when_its_worker_is_gone(way: Way) -> None:
    hold = Hold(early=False)
    _, worker = way.work(hold)
    messages = way.publish()
    eventually(lambda: hold.deliveries)

    way.stop(worker)

    other = Note()
    way.work(other)
    eventually(lambda: other.messages == messages)
    assert hold.deliveries[0].dead
    hold.deliveries[0].acknowledge()
    hold.go_on.set()


def test_a_delivery_that_its_actor_could_not_begin_comes_again(way: Way) -> None:
    seen: list[Delivery] = []

    def fail_once(delivery: Delivery) -> None:
        seen.append(delivery)
        if len(seen) == 1:
            raise ConnectionError("the database is away")
        delivery.acknowledge()

    way.work(fail_once)

    messages = way.publish()

    eventually(lambda: len(seen) == 2)
    assert [delivery.message for delivery in seen] == messages * 2
    never(lambda: len(seen) > 2)


def test_a_returned_delivery_comes_again_at_once(way: Way) -> None:
    seen: list[Delivery] = []

    def return_once(delivery: Delivery) -> None:
        seen.append(delivery)
        if len(seen) == 1:
            delivery.return_()
        delivery.acknowledge()  # too late for the first: it is settled

    way.work(return_once)

    messages = way.publish()

    eventually(lambda: len(seen) == 2, seconds=2)
    assert [delivery.message for delivery in seen] == messages * 2


def test_settling_twice_and_from_many_threads_settles_once(way: Way) -> None:
    seen: list[Delivery] = []

    def settle_often(delivery: Delivery) -> None:
        threads = [threading.Thread(target=delivery.acknowledge) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        delivery.return_()
        seen.append(delivery)

    broker, worker = way.work(settle_often, threads=2)

    way.publish(20)

    eventually(lambda: len(seen) == 20)
    never(lambda: len(seen) > 20)
    assert broker.problem is None
    assert alive(worker)


def test_malformed_bodies_are_orphans_and_stop_nothing(way: Way) -> None:
    note = Note()
    orphans: list[tuple[str, bytes, str]] = []
    _, worker = way.work(note, threads=2, on_orphan=lambda queue, body, reason, headers: orphans.append((queue, body, reason)))

    for body in malformed(way.queue):
        way.put(body)
    messages = way.publish(3)

    eventually(lambda: len(note.messages) == 3)
    assert {message.jobs for message in note.messages} == {message.jobs for message in messages}
    eventually(lambda: len(orphans) == len(malformed(way.queue)))
    assert sorted(body for _, body, _ in orphans) == sorted(malformed(way.queue))
    assert all(queue == way.queue and reason for queue, _, reason in orphans)
    assert alive(worker)
    assert way.depth() == 0


def test_an_orphan_that_cannot_be_kept_is_not_lost_and_stops_nothing(way: Way) -> None:
    note = Note()
    tries: list[bytes] = []

    def fail_twice(queue: str, body: bytes, reason: str, headers: dict[str, Any]) -> None:
        tries.append(body)
        if len(tries) < 3:
            raise ConnectionError("the database is away")

    _, worker = way.work(note, threads=2, on_orphan=fail_twice)
    way.put(b"nonsense")
    eventually(lambda: tries)

    way.publish(5)

    eventually(lambda: len(note.messages) == 5)
    eventually(lambda: tries == [b"nonsense"] * 3)
    never(lambda: len(tries) > 3)
    assert way.depth() == 0
    assert alive(worker)


def test_beside_a_slow_set_everything_goes_to_the_process_that_idles(way: Way) -> None:
    slow, idle = Hold(), Note()
    way.work(slow)
    way.publish()
    eventually(lambda: slow.deliveries)
    way.work(idle)

    messages = way.publish(20)

    eventually(lambda: len(idle.messages) == 20, seconds=5)
    assert {message.jobs for message in idle.messages} == {message.jobs for message in messages}
    assert len(slow.deliveries) == 1
    slow.go_on.set()


def test_what_no_thread_can_start_waits_in_the_queue_and_is_taken_when_one_is_free(way: Way) -> None:
    first, second = Hold(), Hold()
    way.work(first)
    way.work(second)
    way.publish(2)
    eventually(lambda: first.deliveries and second.deliveries)

    messages = way.publish(3)

    settles(lambda: way.depth() == 3)
    first.go_on.set()
    eventually(lambda: len(first.messages) == 4)
    assert {message.jobs for message in first.messages[1:]} == {message.jobs for message in messages}
    second.go_on.set()


def test_paused_it_returns_what_is_not_started_and_takes_nothing_new(way: Way) -> None:
    hold = Hold()
    broker, worker = way.work(hold, threads=2)
    way.publish(2)
    eventually(lambda: len(hold.deliveries) == 2)
    way.publish(2)

    broker.pause()

    settles(lambda: way.depth() == 2)
    way.publish(3)
    hold.go_on.set()
    settles(lambda: way.depth() == 5 and len(hold.deliveries) == 2)
    assert alive(worker)


def test_after_a_pause_one_thread_free_takes_nothing_either(way: Way) -> None:
    note = Note()
    broker, _ = way.work(note, threads=4, timeout=10_000)

    broker.pause()
    way.publish(3)

    settles(lambda: way.depth() == 3)
    assert note.messages == []


def test_every_thread_gets_work_and_nothing_is_done_twice(way: Way) -> None:
    done: list[tuple[UUID, int]] = []

    def perform(delivery: Delivery) -> None:
        delivery.acknowledge()
        done.append((delivery.message.jobs[0].job_id, threading.get_ident()))

    way.work(perform, threads=4)

    messages = way.publish(500)

    eventually(lambda: len(done) >= 500)
    assert {job for job, _ in done} == {message.jobs[0].job_id for message in messages}
    assert len(done) == 500


def test_a_worker_that_starts_on_a_full_queue_takes_it_all(way: Way) -> None:
    for message in [way.message() for _ in range(30)]:
        way.put(encode(message))
    note = Note()

    way.work(note, threads=3)

    eventually(lambda: len(note.messages) == 30)
