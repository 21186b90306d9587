"""Messages that come twice, too early, too late, or are none at all."""

from __future__ import annotations

import json
import time
from typing import Any

from config.ids import uuid7
from tests.crash.commands import QUEUE
from tests.crash.rig import Part, Rig, eventually
from tests.crash.verdict import all_succeeded_once


def test_a_doubled_delivery_of_a_finished_job_does_nothing(rig: Rig) -> None:
    rig.start("relay")
    worker = rig.start("work", threads=1)
    job = rig.write("crash.count", {"n": 1})
    rig.wait_until_final([job])

    for _ in range(5):
        rig.announce((job, 1))
    wait_for_what_came_before(rig)

    assert rig.kinds(job) == ["accepted", "started", "succeeded"]
    all_are_acknowledged(rig, worker)
    all_succeeded_once(rig, [job])


def test_a_doubled_delivery_of_a_running_job_does_nothing(rig: Rig) -> None:
    rig.start("relay")
    worker = rig.start("work", threads=2)
    job = rig.write_waiting()

    for _ in range(5):
        rig.announce((job, 1))
    wait_for_what_came_before(rig)
    rig.sink.let_through(f"{job}/1")
    rig.wait_until_final([job])

    assert rig.kinds(job) == ["accepted", "started", "succeeded"]
    all_are_acknowledged(rig, worker)
    all_succeeded_once(rig, [job])


def test_of_many_deliveries_to_two_processes_one_begins_the_job(rig: Rig) -> None:
    jobs = [rig.write("crash.count", {"n": n}) for n in range(10)]
    for job in jobs * 4:
        rig.announce((job, 1))

    worker = rig.start("work", processes=2)
    rig.wait_until_final(jobs)

    assert all(rig.kinds(job) == ["accepted", "started", "succeeded"] for job in jobs)
    all_are_acknowledged(rig, worker)
    all_succeeded_once(rig, jobs)


def test_a_delivery_that_comes_too_early_or_too_late_does_nothing(rig: Rig) -> None:
    """Attempt 2 is announced before attempt 1, attempt 1 again after it has failed, and a job an hour before its time."""
    worker = rig.start("work", threads=1)
    job, scheduled = rig.write("crash.fail", {"times": 1}), rig.write("crash.count", {"n": 1}, delay=3600)

    rig.announce((job, 2))
    rig.announce((scheduled, 1))
    wait_for_what_came_before(rig)
    before = rig.kinds(job)
    rig.announce((job, 1))
    wait_for_what_came_before(rig)
    rig.announce((job, 1))
    rig.start("relay")
    rig.wait_until_final([job])

    assert before == ["accepted"]
    assert rig.kinds(job) == ["accepted", "started", "failed", "queued", "started", "succeeded"]
    assert rig.effects(job) == [2]
    assert rig.kinds(scheduled) == ["accepted"]
    all_are_acknowledged(rig, worker)


def test_a_message_of_many_of_which_some_are_done_begins_the_others(rig: Rig) -> None:
    worker = rig.start("work", threads=1)
    jobs = [rig.write("crash.count", {"n": n}) for n in range(6)]
    rig.announce(*((job, 1) for job in jobs[:3]))
    wait_for_what_came_before(rig)

    rig.announce(*((job, 1) for job in jobs), (uuid7(), 1))
    rig.wait_until_final(jobs)

    assert all(rig.kinds(job) == ["accepted", "started", "succeeded"] for job in jobs)
    all_are_acknowledged(rig, worker)


def test_malformed_messages_stop_nothing_and_are_kept_as_orphans(rig: Rig) -> None:
    rig.start("relay")
    worker = rig.start("work", threads=1)
    bodies = list(malformed().values())

    rig.publish(*bodies, *bodies)
    job = wait_for_what_came_before(rig)

    kept = rig.rows("select body, times, queue, reason <> '' from haulier.orphan_messages")
    assert {bytes(body): (times, queue, has_reason) for body, times, queue, has_reason in kept} == dict.fromkeys(bodies, (2, QUEUE, True))
    assert "worker process died" not in worker.log
    all_are_acknowledged(rig, worker)
    all_succeeded_once(rig, [job])


def malformed() -> dict[str, bytes]:
    """What dramatiq.md (0.3) and imagination offer; each one is well-formed but for one thing."""
    good: dict[str, Any] = {
        "queue_name": QUEUE, "actor_name": QUEUE, "args": [[str(uuid7()), 1, None]], "kwargs": {}, "options": {},
        "message_id": "1", "message_timestamp": 1,
    }  # fmt: skip
    wrong: dict[str, dict[str, Any]] = {
        "no options": {"options": None},
        "another queue": {"queue_name": "orders"},
        "a queue that is a list": {"queue_name": [QUEUE]},
        "an unknown actor": {"actor_name": "nobody"},
        "no jobs": {"args": []},
        "jobs that are none": {"args": [1, 2]},
        "an id that is none": {"args": [["x", 1, None]]},
        "attempt 0": {"args": [[str(uuid7()), 0, None]]},
        "attempt true": {"args": [[str(uuid7()), True, None]]},
        "an attempt past all integers": {"args": [[str(uuid7()), 2**40, None]]},
        "a time that is text": {"message_timestamp": "now"},
        "a field too many": {"eta": 1},
    }
    return {
        **{name: json.dumps(good | change).encode() for name, change in wrong.items()},
        "a field too few": json.dumps({name: value for name, value in good.items() if name != "kwargs"}).encode(),
        "nothing": b"",
        "no JSON": b"\x80\x04K\x01.",
        "no object": b"[]",
        "half": json.dumps(good).encode()[:-10],
        "deep": b"[" * 30_000,
        "a lone surrogate": b'{"queue_name": "\\ud800"}',
    }


def wait_for_what_came_before(rig: Rig) -> Any:
    """A job behind it in the queue has ended: with one thread that is free, all that stood before it has been dealt with."""
    job = rig.write("crash.count", {"n": 0})
    rig.announce((job, 1))
    rig.wait_until_final([job])
    return job


def all_are_acknowledged(rig: Rig, worker: Part) -> None:
    """What is not acknowledged would go back to the queue when the worker leaves."""
    eventually(lambda: rig.ready_messages() == 0, 20, rig.logs)
    time.sleep(1)  # for what has been delivered and not been looked at: it would go back by right
    assert worker.stop() == 0
    assert rig.ready_messages() == 0
